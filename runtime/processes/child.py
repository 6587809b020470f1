"""Starts child processes for libav's and engines' work, which can always be killed.

libav can block for ever (a pipe without a writer, a dead network disk) or crash on a damaged file,
and nothing inside a process can undo either. So each source, sink and probe has a process of its
own, reached over stdin and stdout, and every call has a deadline on the wall clock.

The child ends by itself when this process dies: its stdin ends.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np

from ...errors import StreamDiffVSRError, UsageError
from . import messages

DEADLINE_S = 60.0
DEBUG = "STREAMDIFFVSR_DEBUG"  # shows what children print, and their tracebacks
_BOOTSTRAP = Path(__file__).with_name("bootstrap.py")
_PIPE_BYTES = 1 << 20  # Linux: fewer wake-ups for a frame of megabytes
_SECRET_NAME = re.compile(
    r"(?:^|_)(?:TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|KEY|APIKEY)(?:_|$)",
    re.IGNORECASE,
)
_WITH_CREDENTIALS = re.compile(r"(?:rtsp|rtmp)\w*://|://\S*[@?]", re.IGNORECASE)
_started: weakref.WeakSet[Child] = weakref.WeakSet()
_starting = threading.Lock()


class ProcessEnded(StreamDiffVSRError):
    """A child has ended before it had sent all.

    Attributes:
        code: As `subprocess.Popen.returncode`.
        last_words: ": " and the last line that it printed, or "".
    """

    def __init__(self, failure: str, code: int, last_words: str) -> None:
        self.code, self.last_words = code, last_words
        super().__init__(failure, f"its process ended unexpectedly ({_ending(code)}){last_words}")


class Child:
    """One running task, and the messages to and from it.

    Args:
        task: The module whose ``serve`` the child runs, such as "runtime.media.reader_child".
        arguments: The arguments of ``serve``; anything that JSON can hold.
        failure: What could not be done if it fails, such as "could not read 'a.mp4'".
        deadline_s: The longest that one message may take; None for no limit.
        memory_bytes: The limit of the child's address space, where the platform has one.
        blas_threads: Let OpenBLAS have its own threads, for a task that computes with numpy.
        keeps: The names of variables that the child gets although they are named like secrets.

    Raises:
        StreamDiffVSRError: The process cannot be started.
    """

    def __init__(
        self,
        task: str,
        arguments: Mapping[str, Any],
        *,
        failure: str,
        deadline_s: float | None = DEADLINE_S,
        memory_bytes: int | None = None,
        blas_threads: bool = False,
        keeps: Collection[str] = (),
    ) -> None:
        self._failure = failure
        self._deadline_s = deadline_s
        self._closed = False
        self._sending, self._receiving = threading.Lock(), threading.Lock()
        self._process, self._stderr = _start(failure, blas_threads, keeps)
        self._watchdog = _Watchdog(self._process)
        # If this is dropped without being closed, the child sees its stdin end and cleans up.
        self._dropped = weakref.finalize(self, _let_go, self._process, self._watchdog)
        self._dropped.atexit = False
        self.send(
            {
                "task": task,
                "arguments": dict(arguments),
                "failure": failure,
                "memory_bytes": memory_bytes,
                "sys_path": [entry for entry in sys.path if entry],
            }
        )
        self._starter = threading.current_thread()
        with _starting:
            _started.add(self)

    @property
    def pid(self) -> int:
        """The process id of the child."""
        return self._process.pid

    def send(self, header: Mapping[str, Any], payload: messages.Payload = b"") -> None:
        """Sends one message to the child; returns when the pipe has taken it.

        Raises:
            StreamDiffVSRError: The child failed, ended, or took longer than the deadline.
        """
        pipe = self._process.stdin
        assert pipe is not None
        try:
            with self._sending, self._watchdog.limit(self._deadline_s):
                messages.send(pipe, header, payload)  # type: ignore[arg-type]  # raw, as bufsize is 0
        except messages.WireError:
            raise
        except (OSError, ValueError):
            while True:  # its reason comes after any messages that are still unread
                self.receive()

    def receive(self, deadline_s: float | None = None) -> tuple[messages.Header, memoryview]:
        """Waits for the next message; its payload is new memory.

        Raises:
            StreamDiffVSRError: The child failed, ended, or took longer than the deadline; a
                `UsageError` if that is what it raised, and a `ProcessEnded` if it ended.
        """
        pipe = self._process.stdout
        assert pipe is not None
        limit_s = self._deadline_s if deadline_s is None else deadline_s
        try:
            with self._receiving, self._watchdog.limit(limit_s):
                header, payload = messages.receive(pipe, _new_memory)  # type: ignore[arg-type]
        except (EOFError, OSError, ValueError) as error:
            self._explain_end(limit_s, error)
        if header["kind"] == "error":
            self.close()
            kind = UsageError if header["usage"] else StreamDiffVSRError
            raise kind(header["what"], header["why"], header["remedy"])
        return header, payload

    def close(self) -> None:
        """Ends the child at once and frees its pipes. Safe from any thread, and twice."""
        self._closed = True
        self._dropped.detach()
        self._watchdog.stop()
        self._process.kill()
        self._process.wait()
        # Another thread may be in a read or a write, which the kill has just ended.
        with self._sending, self._receiving:
            for pipe in (self._process.stdin, self._process.stdout, self._stderr):
                assert pipe is not None
                pipe.close()

    def _explain_end(self, limit_s: float | None, error: Exception) -> NoReturn:
        if self._closed:
            raise StreamDiffVSRError(self._failure, "it was closed") from error
        overdue = self._watchdog.fired
        self._process.kill()  # a no-op if it has ended; else its pipes no longer make sense
        code = self._process.wait()
        last_words = self._last_words()
        self.close()
        if overdue and limit_s is not None:
            raise StreamDiffVSRError(
                self._failure,
                f"no answer within {limit_s:g} s",
                "check that the disk, network share or pipe it is on responds",
            ) from error
        raise ProcessEnded(self._failure, code, last_words) from error

    def _last_words(self) -> str:
        self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, self._stderr.tell() - 4096))
        lines = self._stderr.read().decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f": {last}" if last else ""


def close_children_of(thread: threading.Thread) -> None:
    """Ends the children that a thread has started; its calls on them fail at once."""
    with _starting:
        found = [child for child in _started if child._starter is thread]
    for child in found:
        child.close()


class _Watchdog:
    """Kills a process when a call on its pipes takes too long, which ends the call."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.fired = False
        self._process = process
        self._due: float | None = None
        self._stopped = False
        self._changed = threading.Condition()
        threading.Thread(target=self._watch, name="media-watchdog", daemon=True).start()

    @contextmanager
    def limit(self, seconds: float | None) -> Iterator[None]:
        self._set(None if seconds is None else time.monotonic() + seconds)
        try:
            yield
        finally:
            self._set(None)

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def _set(self, due: float | None) -> None:
        with self._changed:
            self._due = due
            if due is not None:  # a wait for an earlier time just runs out and looks again
                self._changed.notify()

    def _watch(self) -> None:
        with self._changed:
            while not self._stopped:
                left = None if self._due is None else self._due - time.monotonic()
                if left is not None and left <= 0:
                    self.fired = True
                    self._process.kill()
                    return
                self._changed.wait(left)


def _let_go(process: subprocess.Popen[bytes], watchdog: _Watchdog) -> None:
    watchdog.stop()
    assert process.stdin is not None
    process.stdin.close()


def _environment(keeps: Collection[str] = ()) -> dict[str, str]:
    """Returns the variables for a child: this process's, without secrets that it does not need.

    A child of libav reads what strangers send. Those are left out whose name is that of a secret,
    or whose value has an address of a camera or one that may hold credentials, except for proxies.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if name in keeps
        or (
            not _SECRET_NAME.search(name)
            and (name.lower().endswith("_proxy") or not _WITH_CREDENTIALS.search(value))
        )
    }


def _start(
    failure: str, blas_threads: bool, keeps: Collection[str]
) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    """Starts the bootstrap, out of reach of the terminal's Ctrl-C; returns it and its stderr.

    Raises:
        StreamDiffVSRError: The process cannot be started.
    """
    environment = _environment(keeps)
    if not blas_threads:
        environment["OPENBLAS_NUM_THREADS"] = "1"  # threads reserve address space
    away: dict[str, Any] = {"start_new_session": True}
    if sys.platform == "win32":
        away = {"creationflags": subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP}
    try:
        with ExitStack() as undo:
            stderr = undo.enter_context(tempfile.TemporaryFile())  # a file never blocks the child
            process = subprocess.Popen(
                [sys.executable, "-I", "-X", "utf8", str(_BOOTSTRAP)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=None if os.environ.get(DEBUG) else stderr,
                bufsize=0,
                env=environment,
                **away,
            )
            undo.pop_all()
    except OSError as error:
        raise StreamDiffVSRError(
            failure, f"no process could be started with {sys.executable!r} ({error})"
        ) from error
    if sys.platform == "linux":
        _widen(process)
    return process, stderr


def _widen(process: subprocess.Popen[bytes]) -> None:
    import fcntl

    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        try:
            fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        except OSError:
            return  # over the user's quota of pipe memory: only slower


def _ending(code: int) -> str:
    return f"killed by signal {-code}" if code < 0 else f"exit code {code}"


def _new_memory(count: int) -> memoryview:
    return np.empty(count, np.uint8).data
