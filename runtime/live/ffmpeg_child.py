"""Runs ffmpeg for a source or a sink: it ends with this process, and its log says why it failed."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from .ending_child import Cause, Ended

_TIED = Path(__file__).parents[1] / "processes" / "tied.py"
_MEMORY_BYTES = 4 << 30  # address space, most of it the program's own
_KEPT_LINES, _LINE_BYTES = 60, 500
_LAST_WORDS_S = 2.0
_OPENED = re.compile(r"\[info\] Output #0,")
_NOISE = re.compile(r"\[(?:info|verbose|debug)\]")
_HARMLESS = re.compile(r"\[warning\]")  # and no reason for an end
_OF_LIBSRT = re.compile(r"/SRT:")
_PREFIX = re.compile(r"^(?:\[[^\]]* @ 0x\w+\] )*(?:\[\w+\] )?")

# What a line of the log means; the first that is found anywhere in the log counts.
_REASONS: tuple[tuple[str, Cause, str], ...] = (
    (
        r"BADSECRET|Incorrect passphrase",
        "refused",
        "the passphrases of the two ends differ; check both",
    ),
    (
        r"ERROR:UNSECURE|Password required or unexpected|PeerRejected: UNSECURE",
        "refused",
        "only one of the two ends has a passphrase; give both the same",
    ),
    (
        r"processConnectResponse: rejecting|PEER REJECTION|Connection rejected",
        "refused",
        "its server rejects the connection; check the stream id and the passphrase",
    ),
    (r"resolve hostname|Name or service not known", "lost", "there is no host of that name"),
    (r"Address already in use", "lost", "its port is in use by another program"),
    (r"Cannot assign requested address", "lost", "this machine does not have that address"),
    (
        r"Connection setup failure|srt.* failed: (?:Input/output error|Connection timed out)",
        "lost",
        "its server does not answer; check that it runs, its port and its mode",
    ),
    (
        r"Failed to read message|Failed to (?:do )?ICE|(?:ICE|STUN) .*(?:timeout|failed)",
        "lost",
        "its server does not answer over UDP (ICE); check its address and the firewall between",
    ),
    (r"DTLS", "lost", "the encrypted connection with its server failed or was closed (DTLS)"),
    (r"Unsupported B frame", "hopeless", "WHIP takes no B-frames"),
    (r"from UDP socket|does not exist|was broken", "lost", "the other end went away"),
    (r"Error during demuxing", "lost", "its sender has ended the connection"),
)
_KNOWN = tuple((re.compile(pattern), cause, why) for pattern, cause, why in _REASONS)


class Ffmpeg:
    """A running ffmpeg.

    Args:
        program: The path of ffmpeg.
        arguments: Makes its arguments from the descriptor of the hidden text.
        hidden: What it reads over that descriptor, so that its arguments have no secret.
        sends: Whether this process writes to it; otherwise it reads from it.
        noted: Receives each line of its log, on a thread of its own.

    Attributes:
        pipe: The pipe to or from it.
        is_open: Whether its output has been opened.
    """

    def __init__(
        self,
        program: str,
        arguments: Callable[[int], Sequence[str]],
        hidden: str,
        *,
        sends: bool,
        noted: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.is_open = False
        self._known = threading.Event()  # whether its output is open
        self._noted = noted
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        reading, writing = os.pipe()
        try:
            os.write(writing, hidden.encode())  # a pipe holds 4096 bytes at least
            os.close(writing)
            tie = [str(_TIED), str(os.getpid()), str(_MEMORY_BYTES), program]
            usual = ["-hide_banner", "-nostdin", "-nostats", "-v", "level+info"]
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", *tie, *usual, *arguments(reading)],
                stdin=subprocess.PIPE if sends else subprocess.DEVNULL,
                stdout=subprocess.DEVNULL if sends else subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                pass_fds=(reading,),
                env={},
            )
        finally:
            os.close(reading)
        pipe = self._process.stdin if sends else self._process.stdout
        assert pipe is not None and self._process.stderr is not None
        self.pipe: IO[bytes] = pipe
        self._log: IO[bytes] = self._process.stderr
        self._reader = threading.Thread(target=self._read_log, name="ffmpeg log", daemon=True)
        self._reader.start()

    def ended(self, why: str) -> Ended:
        """Ends ffmpeg, and returns what its log gives as the reason, else ``why``."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_LAST_WORDS_S)
        killed = self._process.poll() is None
        self.kill()
        self._reader.join(_LAST_WORDS_S)
        code = self._process.returncode
        if code < 0 and not killed:
            return Ended("lost", f"its ffmpeg was killed by signal {-code}")
        text = "\n".join(self._lines)
        for pattern, cause, meaning in _KNOWN:
            if pattern.search(text):
                return Ended(cause, meaning)
        words = next((line for line in self._lines if not _OF_LIBSRT.search(line)), "")
        return Ended("lost", f"{why} ({words})" if words else why)

    def finish(self, deadline_s: float) -> int | None:
        """Closes the pipe and waits until ffmpeg has ended; returns its exit code, None if late."""
        with contextlib.suppress(OSError):
            self.pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(deadline_s)
        return None

    def kill(self) -> None:
        """Ends ffmpeg at once."""
        self._process.kill()
        self._process.wait()

    def wait_until_open(self, deadline_s: float) -> bool:
        """Waits until its output is open or it has ended; returns whether that was in time."""
        return self._known.wait(deadline_s)

    def _read_log(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            while line := self._log.readline(_LINE_BYTES).decode(errors="replace"):
                if _OPENED.search(line):
                    self.is_open = True
                    self._known.set()
                elif not _NOISE.search(line):
                    self._noted(line)
                    if not _HARMLESS.search(line):
                        self._lines.append(_PREFIX.sub("", line.strip()))
        self._known.set()
