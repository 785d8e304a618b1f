"""Downloads that go on where they were cut off; whether the pieces fit, a checksum must tell.

On top of requests: the libraries of this kind either do not resume (pooch), only serve one site
(huggingface_hub), are no longer maintained (resumable-urlretrieve) or bring an event loop (pypdl).
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

import requests

from skdcgn_pipeline.runtime import progress
from skdcgn_pipeline.runtime.errors import InterruptedRunError, without_credentials

logger = logging.getLogger(__name__)

TRIES = 5  # in a row without a byte further
FIRST_WAIT_SECONDS = 1.0  # doubled with each try
TIMEOUT_SECONDS = (20.0, 60.0)  # to connect, between two packets
CHUNK_BYTES = 2**16
TRANSIENT_STATUS = (408, 425, 429, 500, 502, 503, 504)


class DownloadError(Exception):
    """A download that did not succeed."""


class AbsentError(DownloadError):
    """The server answered that it does not have the file, or not for us."""


class _TryAgainError(Exception):
    """Something that may well succeed at the next try."""


_TRANSIENT_ERRORS = (
    _TryAgainError,
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,  # cut off in the middle
)


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
    failures, furthest = 0, -1
    while True:
        try:
            return _continue(url, path, title, size)
        except _TRANSIENT_ERRORS as error:
            reached = _bytes_of(path)
            # A server that cannot continue starts again and again: only what was never reached counts.
            failures = 1 if reached > furthest else failures + 1
            furthest = max(furthest, reached)
            if failures >= TRIES:
                raise DownloadError(f"{error} ({TRIES} tries, {reached:,} bytes are kept)") from error
            wait = FIRST_WAIT_SECONDS * 2 ** (failures - 1)
            logger.warning("%s: %s; trying again in %.0f s from %s bytes on", title, error, wait, f"{reached:,}")
        except requests.RequestException as error:
            raise DownloadError(without_credentials(str(error))) from error
        _sleep(wait, title)


def _continue(url: str, path: Path, title: str, size: int | None) -> None:
    """Ask once for what is missing and write it."""
    start = _bytes_of(path)
    headers = {"Accept-Encoding": "identity"}  # a compressed answer could not be continued
    if start:
        headers["Range"] = f"bytes={start}-"
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS) as answer:
        if answer.status_code == 416 and start:
            return  # nothing is left
        if answer.status_code in TRANSIENT_STATUS:
            raise _TryAgainError(f"{answer.status_code} {answer.reason}")
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
        raise _TryAgainError(f"the connection ended after {shown.done:,} bytes")


def _bytes_of(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _sleep(seconds: float, title: str) -> None:
    """Wait, unless the run is asked to stop."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if progress.stop_requested():
            raise InterruptedRunError(
                f"{title}: stopped, everything so far is saved. Repeat the same command to go on from here."
            )
        time.sleep(min(left, 0.1))
