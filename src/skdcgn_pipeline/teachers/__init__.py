"""Teachers: networks, loading, training."""
