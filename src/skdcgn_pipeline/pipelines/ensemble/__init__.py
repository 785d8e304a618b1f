"""Train the invariant ensembles of ImageNet and measure them."""
