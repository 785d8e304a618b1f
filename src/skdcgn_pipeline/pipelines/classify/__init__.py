"""Train invariant classifiers."""
