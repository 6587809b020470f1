"""The first code that a child runs: claims the pipes, loads the package, sets limits, serves.

Started as a script by ``child.py`` with ``python -I``, so neither the working directory nor the
folder of this file can shadow a module, and the parent's ``__main__`` is never imported again. It
finds the package by its own path: its folder may have any name, and need not be installed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from importlib import import_module, util
from io import FileIO
from pathlib import Path
from typing import Any

PACKAGE = "streamdiffvsr"


def main() -> None:
    """Serves one task for the parent, then ends without libav's destructors."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    inbox, outbox = _claim_pipes()
    _load_package()
    messages = import_module(f"{PACKAGE}.runtime.processes.messages")
    order, _ = messages.receive(inbox)
    errors = import_module(f"{PACKAGE}.errors")
    errors.speak(errors.Unsaid())  # the parent knows in which words
    sys.path.extend(entry for entry in order["sys_path"] if entry not in sys.path)
    _limit_memory(order["memory_bytes"])
    try:
        task = import_module(f"{PACKAGE}.{order['task']}")
        task.serve(order["arguments"], inbox, outbox)
    except (EOFError, BrokenPipeError):
        os._exit(1)  # the parent is gone: there is no reader for an error
    except BaseException as error:
        traceback.print_exception(error)
        with contextlib.suppress(OSError):
            messages.send(outbox, {"kind": "error", **_fields(error, order["failure"])})
    os._exit(0)


def _claim_pipes() -> tuple[FileIO, FileIO]:
    """Returns stdin and stdout as raw pipes; what a library prints goes to stderr instead."""
    outbox = FileIO(os.dup(1), "wb")
    os.dup2(2, 1)
    return FileIO(0, "rb", closefd=False), outbox


def _load_package() -> None:
    root = Path(__file__).resolve().parents[2]
    spec = util.spec_from_file_location(
        PACKAGE, root / "__init__.py", submodule_search_locations=[str(root)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"{root} is not the {PACKAGE} package")
    module = util.module_from_spec(spec)
    sys.modules[PACKAGE] = module
    spec.loader.exec_module(module)


def _limit_memory(limit: int | None) -> None:
    """Limits the address space where the platform can, so that only this process runs out."""
    if limit is None or sys.platform == "win32":
        return
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    with contextlib.suppress(ValueError, OSError):  # macOS has the name but refuses the value
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _fields(error: BaseException, failure: str) -> dict[str, Any]:
    """Returns the error as the parent will raise it: what, why and remedy."""
    errors = import_module(f"{PACKAGE}.errors")
    if isinstance(error, errors.StreamDiffVSRError):
        fields = {key: getattr(error, key) for key in ("what", "why", "remedy")}
        return {**fields, "usage": isinstance(error, errors.UsageError)}
    libav = sys.modules.get(f"{PACKAGE}.runtime.media.libav")
    if isinstance(error, MemoryError):
        why = "it needs more memory than allowed"
    else:
        why = libav.describe(error) if libav else f"{type(error).__name__}: {error}"
    return {"what": failure, "why": why, "remedy": "", "usage": False}


if __name__ == "__main__":
    main()
