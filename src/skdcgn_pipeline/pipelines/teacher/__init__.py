"""Train a CGN to distil from."""
