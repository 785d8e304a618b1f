"""Take students and classifier away: files for other programs, and models that MLflow serves."""
