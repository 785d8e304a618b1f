"""Measures: how alike student and teacher are, what they cost, how accurate classifiers are."""
