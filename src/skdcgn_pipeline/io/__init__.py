"""Kedro datasets and MLflow logging: everything that knows of either."""
