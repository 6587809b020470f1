"""A build in a process of its own: ordered, followed, ended with this one, explained if it dies.

Export and compilation take gigabytes and native code. When they crash or the system kills them, the
caller gets one line, and everything else it was doing goes on.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any, NoReturn

from ..errors import StreamDiffVSRError, UsageError
from .order import BuildSpec, Progress

CHILD = Path(__file__).with_name("child.py")
DEBUG = "STREAMDIFFVSR_DEBUG"  # shows what libraries print, and tracebacks
LAST_BYTES = 4096
SMALLER = "use --tile, --flow-scale 2, --precision fp16 or a smaller input, or free memory"


def execute_in_child(order: BuildSpec, progress: Progress) -> None:
    """Fill `order.stage` with a whole engine set, in another process.

    Raises:
        StreamDiffVSRError: What the build raised, or how its process ended.
        MemoryError: The build ran out of memory.
    """
    with tempfile.TemporaryFile() as stderr:
        process = _start(None if os.environ.get(DEBUG) else stderr)
        try:
            final = _follow(process, order, progress)
            code = process.wait() if final is None else 0
        finally:  # Ctrl-C, too: nothing that it holds is worth waiting for
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                pipe.close()
        if final is None:
            raise StreamDiffVSRError(
                f"the build of {order.key.size} engines ended unexpectedly",
                f"{ending(code)}{_last_words(stderr)}",
                f"if memory was short, {SMALLER}; {DEBUG}=1 shows more",
            )
    if error := final.get("error"):
        _raise(error)


def ending(code: int) -> str:
    """How a process has ended, in words."""
    if code == -getattr(signal, "SIGKILL", 9):
        return "the system killed it, as it does when memory runs out"
    if code < 0:
        return f"it crashed with {signal.Signals(-code).name}"
    return f"it crashed with code {code if code < 2**16 else hex(code)}"


def _start(stderr: IO[bytes] | None) -> subprocess.Popen[str]:
    try:
        return subprocess.Popen(
            [sys.executable, "-I", "-X", "utf8", os.fspath(CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            encoding="utf-8",
        )
    except OSError as error:
        raise StreamDiffVSRError(
            "no build can be started", f"{sys.executable!r} does not run ({error})"
        ) from error


def _follow(
    process: subprocess.Popen[str], order: BuildSpec, progress: Progress
) -> dict[str, Any] | None:
    """The last message, or None if the process ended without one."""
    assert process.stdin is not None and process.stdout is not None
    request = {"order": order.to_json(), "sys_path": [entry for entry in sys.path if entry]}
    try:
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
    except OSError:
        return None  # it has ended already; its code says how
    for line in process.stdout:
        message: dict[str, Any] = json.loads(line)
        if "progress" not in message:
            return message
        progress(message["progress"])
    return None


def _raise(error: dict[str, str]) -> NoReturn:
    kinds = {"StreamDiffVSRError": StreamDiffVSRError, "UsageError": UsageError}
    if error["kind"] in kinds:
        raise kinds[error["kind"]](error["what"], error["why"], error["remedy"])
    if error["kind"] == "MemoryError":
        raise MemoryError(error["what"])
    raise RuntimeError(f"{error['kind']}: {error['what']}")


def _last_words(stderr: IO[bytes]) -> str:
    stderr.seek(0, os.SEEK_END)
    stderr.seek(max(0, stderr.tell() - LAST_BYTES))
    lines = stderr.read().decode(errors="replace").splitlines()
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f": {last}" if last else ""
