"""Ports of this machine for tests."""

from __future__ import annotations

import socket


def free_port() -> int:
    """Return a port that nobody listens on; the next call gives another one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
