# The command line. CPU by default; CUDA 13, for which PyPI's PyTorch is built: --build-arg TORCH_INDEX=https://pypi.org/simple
FROM python:3.11-slim

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1 MLFLOW_DISABLE_TELEMETRY=true DO_NOT_TRACK=true RAY_USAGE_STATS_ENABLED=0
# Runs are kept in the folder that is mounted, as all else.
ENV MLFLOW_TRACKING_URI=sqlite:////project/data/mlflow.db

RUN apt-get update && apt-get install -y --no-install-recommends git && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 someone && mkdir -p /project/data && chown -R someone /project
USER someone
ENV PATH=/home/someone/.venv/bin:$PATH
WORKDIR /project
RUN python -m venv /home/someone/.venv
COPY --chown=someone pyproject.toml constraints.txt README.md LICENSE ./
COPY --chown=someone src src
COPY --chown=someone conf conf
RUN pip install --extra-index-url "$TORCH_INDEX" --constraint constraints.txt --editable ".[pipeline,ray]"
CMD ["kedro", "run"]
