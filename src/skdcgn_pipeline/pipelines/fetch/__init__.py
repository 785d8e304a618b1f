"""Bring the assets of an environment."""
