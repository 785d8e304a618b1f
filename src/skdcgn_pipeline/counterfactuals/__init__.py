"""Counterfactuals composed from pools and generators."""
