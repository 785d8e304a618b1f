"""Measure how good counterfactuals are."""
