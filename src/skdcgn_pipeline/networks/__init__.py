"""Networks and weights that rooms share."""
