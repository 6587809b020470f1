"""Prints results and progress, and turns a failure into one line and an exit code.

Results go to stdout, everything else to stderr.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import typer

from ..errors import StreamDiffVSRError, UsageError, Words, speaking

FAILED, USAGE, INTERRUPTED, TERMINATED = 1, 2, 130, 143
DEBUG = "STREAMDIFFVSR_DEBUG"
# How the short-lived lines of `build` begin; at a terminal each replaces the one before it.
PASSING = (
    "load ",
    "calibrate ",
    "export ",
    "compare ",
    "make ",
    "reference",
    "take ",
    "quantise ",
    "compile ",
    "check ",
)

Result = Mapping[str, Any]

_at_once = threading.Event()


def leave_at_once() -> None:
    """Makes `end` leave without waiting for a thread in a library call that cannot be stopped."""
    _at_once.set()


def end(code: int) -> int:
    """Returns the exit code of the program, or ends it here if `leave_at_once` was called."""
    if _at_once.is_set():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


class CommandLine(Words):
    """Writes options and commands as on the command line."""

    def option(self, name: str, value: str | None) -> str:
        flag = name.replace("_", "-")
        if value is None or value == "True":
            return f"--{flag}"
        if value == "False":
            return f"--no-{flag}"
        if name == "compute_capabilities":
            value = ",".join(f"{int(each) / 10:.1f}" for each in re.findall(r"\d+", value))
        size = re.sub(r"\((\d+), (\d+)\)", r"\2x\1", value)
        return f"--{flag} {size}".replace("'", "")

    def command(self, line: str, value: str | None) -> str:
        if value is None:
            return f"streamdiffvsr {line}"
        name, _, key = line.rpartition(" ")
        return f"streamdiffvsr {name} {self.option(key, value)}"


class _Terminated(BaseException):
    """Raised when SIGTERM arrives."""


def run(action: Callable[[], Result | None], *, as_json: bool) -> int:
    """Runs a command and returns its exit code; any failure becomes one line on stderr.

    Args:
        action: Returns what `--json` prints, with an `exit_code` if that is not 0.
        as_json: Whether to print the result, or the error, as one JSON object on the last line.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # for file names that the terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    _end_by_exception_when_terminated()
    with speaking(CommandLine()):
        return _run(action, as_json=as_json)


def _run(action: Callable[[], Result | None], *, as_json: bool) -> int:
    try:
        result = action() or {}
        if as_json and result:
            _print_json(result)
        sys.stdout.flush()
        return int(result.get("exit_code", 0))
    except typer.Exit as ended:  # --help and --version
        return ended.exit_code
    except BrokenPipeError:
        # Nothing reads stdout any more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except SystemExit as ended:  # from rich, for the same reason
        return ended.code if isinstance(ended.code, int) else FAILED
    except BaseException as error:
        code, line = _explain(error)
        return _fail(line, code, as_json=as_json)


def _explain(error: BaseException) -> tuple[int, str]:
    """Returns the exit code and the line for a failure."""
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return INTERRUPTED, _stopped("stopped by Ctrl-C", error)
    if isinstance(error, _Terminated):
        return TERMINATED, _stopped("stopped by a signal", error)
    if isinstance(error, UsageError):
        return USAGE, str(error)
    if isinstance(error, StreamDiffVSRError):
        return FAILED, str(error)
    if hasattr(error, "format_message"):  # from the parser: typer or click, by version
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "streamdiffvsr"
        return USAGE, f"{error.format_message().rstrip('.')}; see {command} --help"
    if isinstance(error, MemoryError):
        return FAILED, f"not enough memory: {error}; use --tile, --flow-scale 2 or a smaller input"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f" of {error.filename}" if error.filename else ""
        return FAILED, f"the disk{where} is full; free some space, or use another folder"
    what = f"{type(error).__name__}: {error}"
    return FAILED, f"unexpected {what}; {DEBUG}=1 shows where, please report it"


def _stopped(line: str, error: BaseException) -> str:
    """Returns a line, followed by the error's message (what is kept of the work) if it has one."""
    return f"{line}; {error}" if str(error) else line


def _fail(line: str, code: int, *, as_json: bool) -> int:
    line = " ".join(line.split())
    if os.environ.get(DEBUG):
        traceback.print_exc()
    with contextlib.suppress(OSError):  # the failure may be that of stdout or stderr
        show_error(line)
        if as_json:
            _print_json({"error": line, "exit_code": code})
    return code


def show_error(line: str) -> None:
    """Prints what went wrong on stderr."""
    typer.echo(f"{typer.style('error:', fg='red')} {line}", err=True)


def _print_json(result: Result) -> None:
    typer.echo(json.dumps(result))


def _end_by_exception_when_terminated() -> None:
    """Makes SIGTERM unwind the stack, so that unfinished files are removed."""

    def end(number: int, frame: object) -> None:
        raise _Terminated

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, end)


@contextlib.contextmanager
def build_progress(
    *, enabled: bool, passing: tuple[str, ...] = PASSING
) -> Iterator[Callable[[str], None]]:
    """Yields a function that shows a line of progress on stderr.

    At a terminal a clock runs next to the line; elsewhere lines are plain.

    Args:
        enabled: Whether to show anything; off with `--json`.
        passing: How the lines begin that replace each other at a terminal.
    """
    if not enabled:
        yield lambda line: None
        return
    with _clock(passing) if sys.stderr.isatty() else contextlib.nullcontext(_plain) as show:
        yield show


def _plain(line: str) -> None:
    if not line.endswith("%"):
        typer.echo(line, err=True)


@contextlib.contextmanager
def _clock(passing: tuple[str, ...]) -> Iterator[Callable[[str], None]]:
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("prepare", total=None)

        def show(line: str) -> None:
            if line.startswith(passing):
                bar.update(task, description=line)
            else:
                bar.console.print(line, markup=False, highlight=False, soft_wrap=True)

        yield show
