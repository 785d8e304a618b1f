"""Make a release of the run's students."""
