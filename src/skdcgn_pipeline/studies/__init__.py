"""Experiments made of many trainings: which images make classifiers invariant, and which part matters."""
