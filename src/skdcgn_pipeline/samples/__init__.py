"""Samples of generators: records, shards, encodings."""
