"""Ask MLflow's server for what no model can give: `python -m campaign.served FOLDER students|classifier BODY [TYPE]`.

The body is read from a file where it begins with `@`. Prints the answer; the status is 0 for an answer of images or
labels, 1 for one that is refused with a reason, 70 for anything else, as a server's own fault (500) would be.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import mlflow
from mlflow.pyfunc import scoring_server
from mlflow.types import ColSpec, DataType

from skdcgn_pipeline import InvariantClassifier, StudentCGN
from skdcgn_pipeline.io.serving import FOLDER, ServedClassifier, ServedStudents, _pixel_schema, _signature

MODELS = {"students": ServedStudents, "classifier": ServedClassifier}


def model_of(kind: str, folder: Path) -> Any:
    """Load a model as MLflow's server does; saved before, where no case of the same campaign has."""
    path = folder / f"served_{kind}"
    if not path.is_dir():
        files = folder / f"files_{kind}"
        if kind == "students":
            StudentCGN.from_released("digits").save_pretrained(files)
        else:
            InvariantClassifier([str(label) for label in range(10)]).save_pretrained(files)
        model, artifacts = MODELS[kind](), {FOLDER: str(files)}
        outputs = _pixel_schema(32) if kind == "students" else ColSpec(DataType.string, "label")
        mlflow.pyfunc.save_model(
            path, python_model=model, artifacts=artifacts, signature=_signature(outputs), pip_requirements=[]
        )
    return mlflow.pyfunc.load_model(str(path))


async def ask(app: Any, body: bytes, content_type: str) -> tuple[int, bytes]:
    """Return the status and the content of what an application answers, as a web server would ask it."""
    parts: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        parts.append(message)

    scope = {"type": "http", "method": "POST", "path": "/invocations", "query_string": b"", "http_version": "1.1"}
    scope |= {"headers": [(b"content-type", content_type.encode())], "scheme": "http", "server": ("127.0.0.1", 1)}
    await app(scope, receive, send)
    return parts[0]["status"], b"".join(part.get("body", b"") for part in parts[1:])


def main() -> int:
    """Ask once, as the command line says."""
    folder, kind, body, *content_type = sys.argv[1:]
    data = Path(body[1:]).read_bytes() if body.startswith("@") else body.encode()
    app = scoring_server.init(model_of(kind, Path(folder)))
    status, content = asyncio.run(ask(app, data, (content_type or ["application/json"])[0]))
    words = content.decode(errors="replace")
    print(words[:300] if status == 200 else f"Error {status}: {words}")  # noqa: T201
    return {200: 0, 400: 1, 415: 1}.get(status, 70)


if __name__ == "__main__":
    sys.exit(main())
