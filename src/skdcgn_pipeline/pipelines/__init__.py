"""Kedro pipelines: thin nodes and their wiring, one folder per stage."""
