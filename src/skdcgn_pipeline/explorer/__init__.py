"""A page on localhost to look at teacher, students and classifiers; knows neither Kedro nor MLflow."""

DEFAULT_PORT = 7860
