"""Downloads that go on where they were cut off; whether the pieces fit, a checksum must tell.

On top of requests: the libraries of this kind either do not resume (pooch), only serve one site
(huggingface_hub), are no longer maintained (resumable-urlretrieve) or bring an event loop (pypdl).
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from skdcgn_pipeline.runtime import progress
from skdcgn_pipeline.runtime.errors import without_credentials
from skdcgn_pipeline.runtime.libraries import import_library

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = (20.0, 60.0)  # to connect, between two packets
CHUNK_BYTES = 2**16
# Of a server that does not answer or is busy, after half a second, 1, 2 and 4.
RETRIES = {
    "total": 4,
    "backoff_factor": 0.5,
    "status_forcelist": (408, 425, 429, 500, 502, 503, 504),
    "raise_on_status": False,
    "respect_retry_after_header": False,  # which may ask for hours
}


class DownloadError(Exception):
    """A download that did not succeed."""


class AbsentError(DownloadError):
    """The server answered that it does not have the file, or not for us, or not now."""


def download(url: str, path: Path, title: str, size: int | None = None) -> None:
    """Download a file, going on from the bytes that are there.

    Args:
        url: An http or https address; credentials are taken from ~/.netrc.
        path: Where to; its folder must exist.
        title: What the progress is called.
        size: Bytes that the file must have, where they are known.

    Raises:
        AbsentError: If the server does not have the file.
        DownloadError: If it has another size or the connection keeps breaking.
        InterruptedRunError: If the run was asked to stop; what came so far is kept.
    """
    requests = import_library("requests", "train", "fetch")
    with requests.Session() as session:
        for scheme in ("http://", "https://"):
            retries = requests.packages.urllib3.util.Retry(**RETRIES)
            session.mount(scheme, requests.adapters.HTTPAdapter(max_retries=retries))
        while True:
            before = _bytes_of(path)
            try:
                return _continue(session, url, path, title, size)
            except (requests.RequestException, ConnectionError) as error:
                reached, fault = _bytes_of(path), without_credentials(str(error))
                # A server that cannot continue starts again and again: only what was never reached counts.
                if reached <= before:
                    raise DownloadError(f"{fault} ({reached:,} bytes are kept)") from error
                logger.warning("%s: %s; going on from %s bytes", title, fault, f"{reached:,}")


def _continue(session: Any, url: str, path: Path, title: str, size: int | None) -> None:
    """Ask once for what is missing and write it."""
    start = _bytes_of(path)
    headers = {"Accept-Encoding": "identity"}  # a compressed answer could not be continued
    if start:
        headers["Range"] = f"bytes={start}-"
    with session.get(url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS) as answer:
        if answer.status_code == 416 and start:
            return  # nothing is left
        if answer.status_code not in (200, 206):
            raise AbsentError(f"the answer {answer.status_code} {answer.reason}")
        if answer.status_code == 200:
            start = 0  # the whole file
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length else size
        if size is not None and total != size:
            raise DownloadError(f"a file of {total:,} bytes")
        shown = progress.Progress(title, total or 1, "bytes", start)
        with path.open("ab" if start else "wb") as file:
            for chunk in answer.iter_content(CHUNK_BYTES):
                if progress.stop_requested():
                    shown.interrupt()
                file.write(chunk)
                shown.advance(len(chunk))
                if size is not None and shown.done > size:
                    path.unlink()
                    raise DownloadError(f"a file of more than {size:,} bytes")
        shown.finish()
    if size is not None and shown.done < size:  # without a length, the end of the connection was all to go by
        raise ConnectionError(f"the connection ended after {shown.done:,} bytes")


def _bytes_of(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
