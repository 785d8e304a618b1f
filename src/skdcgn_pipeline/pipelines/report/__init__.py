"""Put the run into one page."""
