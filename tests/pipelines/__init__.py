"""Tests of the Kedro pipelines; a package, so that its helpers never meet others of that name."""
