"""Tests of the Kedro pipelines; a package, so that its conftest and helpers never meet others of that name."""
