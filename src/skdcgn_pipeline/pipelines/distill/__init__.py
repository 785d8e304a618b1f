"""Distil the three mechanisms."""
