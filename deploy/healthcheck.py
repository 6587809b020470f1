#!/usr/bin/env python3
"""Reports to Docker whether `live` or `serve` plays in a container: exit code 0 if so, else 1.

Needs the standard library only. STREAMDIFFVSR_HEALTH_URL is the page's /healthz, if it is not on
port 8080; STREAMDIFFVSR_TOKEN is the page's token. Without either there is nothing to ask.
"""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request
from pathlib import Path

URL = "http://127.0.0.1:8080/healthz"
FIRST_PROCESS = Path("/proc/1/cmdline")  # of the container
TIMEOUT_S = 4.0


def main() -> int:
    """Prints what the page answers, in one line, and returns the exit code."""
    if not runs_live():
        print("neither live nor serve in this container")
        return 0
    request = urllib.request.Request(os.environ.get("STREAMDIFFVSR_HEALTH_URL") or URL)
    if token := os.environ.get("STREAMDIFFVSR_TOKEN"):
        request.add_header("Authorization", f"Bearer {token}")
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(request, timeout=TIMEOUT_S) as answer:
            print(answer.read(200).decode(errors="replace").strip())
            return 0
    except urllib.error.HTTPError as error:
        print(error.code, error.read(200).decode(errors="replace").strip())
    except OSError as error:
        print(f"no answer: {getattr(error, 'reason', error)}")
    return 1


def runs_live() -> bool:
    """Returns whether `live` or `serve` is an argument of the container's first process.

    With an init of Docker's in front, the command is among that one's arguments.
    """
    try:
        return not {b"live", b"serve"}.isdisjoint(FIRST_PROCESS.read_bytes().split(b"\0"))
    except OSError:
        return True


if __name__ == "__main__":
    sys.exit(main())
