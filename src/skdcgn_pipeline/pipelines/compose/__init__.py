"""Compose counterfactuals."""
