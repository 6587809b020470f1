"""How the command line speaks: results, progress, and failures as one line with an exit code.

Results go to stdout, everything else to stderr. It knows no command: what runs is a function that
returns a dictionary for `--json`.
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
# Of `build`'s lines, those that are over in seconds: at a terminal they take turns on one line.
PASSING = ("load ", "calibrate ", "export ", "quantise ", "compile ", "check ")

Result = Mapping[str, Any]


_at_once = threading.Event()


def leave_at_once() -> None:
    """Have `end` leave without waiting: a thread is inside a library that cannot be stopped."""
    _at_once.set()


def end(code: int) -> int:
    """The exit code of a program that may end; it ends here if it must leave at once."""
    if _at_once.is_set():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


class CommandLine(Words):
    """Options as they are written on the command line."""

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
    """SIGTERM has come."""


def run(action: Callable[[], Result | None], *, as_json: bool) -> int:
    """Run a command and give its exit code; any failure becomes one line on stderr.

    Args:
        action: Returns what `--json` prints, with an `exit_code` where that is not 0.
        as_json: One JSON object is the last line of stdout, of a failure as well.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a file name may hold what the terminal cannot show
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
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # its reader has left
        return FAILED
    except SystemExit as ended:  # of rich, whose reader has left too
        return ended.code if isinstance(ended.code, int) else FAILED
    except BaseException as error:
        code, line = _explain(error)
        return _fail(line, code, as_json=as_json)


def _explain(error: BaseException) -> tuple[int, str]:
    """The exit code and the line of a failure."""
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return INTERRUPTED, _stopped("stopped by Ctrl-C", error)
    if isinstance(error, _Terminated):
        return TERMINATED, _stopped("stopped by a signal", error)
    if isinstance(error, UsageError):
        return USAGE, str(error)
    if isinstance(error, StreamDiffVSRError):
        return FAILED, str(error)
    if hasattr(error, "format_message"):  # of the parser: typer's or click's, by version
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "streamdiffvsr"
        return USAGE, f"{error.format_message().rstrip('.')}; see {command} --help"
    if isinstance(error, MemoryError):
        return FAILED, f"not enough memory: {error}; use --tile, --flow-scale 2 or a smaller input"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f" of {error.filename}" if error.filename else ""
        return FAILED, f"the disk{where} is full; free some space, or use another folder"
    told = f"{type(error).__name__}: {error}"
    return FAILED, f"unexpected {told}; {DEBUG}=1 shows where, please report it"


def _stopped(line: str, error: BaseException) -> str:
    """With what is left of the work, where somebody has said so."""
    return f"{line}; {error}" if str(error) else line


def _fail(line: str, code: int, *, as_json: bool) -> int:
    line = " ".join(line.split())
    if os.environ.get(DEBUG):
        traceback.print_exc()
    with contextlib.suppress(OSError):  # stdout or stderr may be what has failed
        typer.echo(f"{typer.style('error:', fg='red')} {line}", err=True)
        if as_json:
            _print_json({"error": line, "exit_code": code})
    return code


def _print_json(result: Result) -> None:
    typer.echo(json.dumps(result))


def _end_by_exception_when_terminated() -> None:
    """Let SIGTERM unwind the stack, so that unfinished files are removed."""

    def end(number: int, frame: object) -> None:
        raise _Terminated

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, end)


@contextlib.contextmanager
def build_progress(
    *, enabled: bool, passing: tuple[str, ...] = PASSING
) -> Iterator[Callable[[str], None]]:
    """Where the lines of long work go: a running clock at a terminal, plain lines elsewhere.

    Args:
        enabled: Off beside `--json`.
        passing: How lines begin that take turns on one line at a terminal.
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

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("prepare", total=None)

        def show(line: str) -> None:
            if line.startswith(passing):
                bar.update(task, description=line)
            else:
                bar.console.print(line, markup=False, highlight=False, soft_wrap=True)

        yield show
