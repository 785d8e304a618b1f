"""Invariant classifiers: networks, training, measures."""
