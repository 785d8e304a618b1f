"""Measure the students that come with the package."""
