"""Image sets and the feature network."""
