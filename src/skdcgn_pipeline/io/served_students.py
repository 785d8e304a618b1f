"""What MLflow runs to load served students: code in place of a pickle, which could hold anything."""

from mlflow.models import set_model

from skdcgn_pipeline.io.serving import ServedStudents

set_model(ServedStudents())
