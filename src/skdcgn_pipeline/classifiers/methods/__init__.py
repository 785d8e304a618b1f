"""Ways to train a classifier on biased images, or on counterfactuals: a file per method, named in `registry`."""
