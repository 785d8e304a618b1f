"""Images, biases, samples of the mechanisms and the pools that counterfactuals are drawn from."""
