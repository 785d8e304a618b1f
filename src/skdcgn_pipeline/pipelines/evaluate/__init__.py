"""Measure a classifier on any folder of images of its classes."""
