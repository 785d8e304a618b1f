"""Downloads that go on where they were cut off.

On top of requests: the libraries of this kind either do not resume (pooch), only serve one site
(huggingface_hub), are no longer maintained (resumable-urlretrieve) or bring an event loop (pypdl).
"""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

import requests

from skdcgn_pipeline.artifacts.store import write_json
from skdcgn_pipeline.runtime import progress
from skdcgn_pipeline.runtime.errors import InterruptedRunError

logger = logging.getLogger(__name__)

TRIES = 5  # in a row without a byte further
FIRST_WAIT_SECONDS = 1.0  # doubled with each try
TIMEOUT_SECONDS = (20.0, 60.0)  # to connect, between two packets
CHUNK_BYTES = 2**16
TRANSIENT_STATUS = (408, 425, 429, 500, 502, 503, 504)
PART, RECORD = ".part", ".part.json"


class DownloadError(Exception):
    """A download that did not succeed; what came so far is kept where it can be of use."""


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


def part_of(path: Path) -> Path:
    """Return where a file is kept while it is incomplete."""
    return path.with_name(path.name + PART)


def discard(path: Path) -> None:
    """Forget what was downloaded of a file so far."""
    part_of(path).unlink(missing_ok=True)
    path.with_name(path.name + RECORD).unlink(missing_ok=True)


def download(url: str, path: Path, title: str, size: int | None = None) -> bool:
    """Download a file to `part_of(path)`, going on from what is there of the same address.

    Args:
        url: An http or https address; credentials are taken from ~/.netrc.
        path: Where the file is going to be; its folder must exist.
        title: What the progress is called.
        size: Bytes that the download must have, where they are known.

    Returns:
        Whether the file was put together from several answers of the server.

    Raises:
        AbsentError: If the server does not have the file.
        DownloadError: If it has another size or the connection keeps breaking.
        InterruptedRunError: If the run was asked to stop; the part is kept.
    """
    resumed, failures, furthest = False, 0, -1
    while True:
        before = _bytes_of(part_of(path))
        try:
            return _continue(url, path, title, size) or resumed
        except _TRANSIENT_ERRORS as error:
            resumed |= before > 0
            reached = _bytes_of(part_of(path))
            # A server that cannot continue starts again and again: only what was never reached counts.
            failures = 0 if reached > max(furthest, before) else failures + 1
            furthest = max(furthest, reached)
            if failures >= TRIES:
                raise DownloadError(f"{error} ({TRIES} tries, {reached:,} bytes are kept)") from error
            wait = FIRST_WAIT_SECONDS * 2 ** max(failures - 1, 0)
            logger.warning("%s: %s; trying again in %.0f s from %s bytes on", title, error, wait, f"{reached:,}")
        except requests.RequestException as error:
            raise DownloadError(str(error)) from error
        _sleep(wait, title)


def _continue(url: str, path: Path, title: str, size: int | None) -> bool:
    """Ask once for what is missing and write it; returns whether something was there before."""
    part, record = part_of(path), path.with_name(path.name + RECORD)
    known = _read_record(record)
    start = _bytes_of(part) if known.get("url") == url else 0  # another part stays until this one begins
    headers = {"Accept-Encoding": "identity"}  # a compressed answer could not be continued
    if start:
        headers["Range"] = f"bytes={start}-"
        if known.get("validator"):
            headers["If-Range"] = known["validator"]
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS) as answer:
        sent_range = answer.headers.get("Content-Range", "")
        if answer.status_code == 416 and start:
            if sent_range == f"bytes */{start}":
                return True  # it was complete
            discard(path)
            raise _TryAgainError("the part does not fit the file on the server")
        if answer.status_code in TRANSIENT_STATUS:
            raise _TryAgainError(f"{answer.status_code} {answer.reason}")
        if answer.status_code not in (200, 206):
            raise AbsentError(f"the answer {answer.status_code} {answer.reason}")
        if answer.status_code == 206 and not sent_range.startswith(f"bytes {start}-"):
            discard(path)
            raise _TryAgainError(f"the range '{sent_range}' instead of what was asked for")
        if answer.status_code == 200 and start:
            logger.info("%s: the server does not continue downloads or has another file; starting again", title)
            start = 0
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length else None
        if size is not None and total is not None and total != size:
            if start:
                discard(path)
            raise DownloadError(f"a file of {total:,} bytes")
        if not start:
            part.write_bytes(b"")
            write_json(record, {"url": url, "validator": _validator(answer)})
        shown = progress.Progress(title, total or size or 1, "bytes", start)
        with part.open("ab") as file:
            for chunk in answer.iter_content(CHUNK_BYTES):
                if progress.stop_requested():
                    shown.interrupt()
                file.write(chunk)
                shown.advance(len(chunk))
                if (total or size) is not None and shown.done > shown.total:
                    break
        shown.finish()
    reached = _bytes_of(part)
    if size is not None and reached > size:
        discard(path)
        raise DownloadError(f"a file of more than {size:,} bytes")
    if size is not None and reached < size:  # without a length, the end of the connection was all to go by
        raise _TryAgainError(f"the connection ended after {reached:,} bytes")
    return start > 0


def _validator(answer: requests.Response) -> str | None:
    """Return what tells one version of a file from another; a weak tag does not, byte by byte."""
    tag = answer.headers.get("ETag", "")
    return tag if tag.startswith('"') else answer.headers.get("Last-Modified")


def _read_record(path: Path) -> dict[str, str]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


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
