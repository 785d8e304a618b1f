"""What MLflow runs to load a served classifier: code in place of a pickle, which could hold anything."""

from mlflow.models import set_model

from skdcgn_pipeline.io.serving import ServedClassifier

set_model(ServedClassifier())
