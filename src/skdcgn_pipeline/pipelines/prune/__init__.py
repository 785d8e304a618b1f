"""Remove what a data root no longer needs."""
