"""Put what the explorer shows into one folder."""
