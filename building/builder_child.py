"""The process that a build runs in: started as a script, it takes one order and tells how it goes.

A crash of a library or the system's out-of-memory killer ends this process and no other. One JSON
line comes in, JSON lines go out; whatever libraries print goes to stderr. The order's pipe stays
open as long as the parent lives: at its end this process ends, too.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from importlib import import_module, util
from pathlib import Path
from typing import Any, TextIO

PACKAGE = "streamdiffvsr"


def main() -> None:
    """Carry out the order on stdin; the last line out is `{"done": true}` or an error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle: it kills
    outbox = _claim_stdout()
    request: dict[str, Any] = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.path.extend(entry for entry in request["sys_path"] if entry not in sys.path)
    _load_package()

    def tell(**message: Any) -> None:
        outbox.write(json.dumps(message) + "\n")
        outbox.flush()

    try:
        orders = import_module(f"{PACKAGE}.building.request")
        order = orders.BuildSpec.from_json(request["order"])
        orders.execute(order, lambda line: tell(progress=line))
    except BaseException as error:
        tell(error=_told(error))
    else:
        tell(done=True)
    os._exit(0)  # destructors of several GB and of a GPU's driver have nothing left to do


def _claim_stdout() -> TextIO:
    outbox = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return outbox


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


def _load_package() -> None:
    """Find the package by its own path: it may not be installed, nor its folder have its name."""
    root = Path(__file__).resolve().parent.parent
    spec = util.spec_from_file_location(
        PACKAGE, root / "__init__.py", submodule_search_locations=[str(root)]
    )
    assert spec is not None and spec.loader is not None
    module = util.module_from_spec(spec)
    sys.modules[PACKAGE] = module
    spec.loader.exec_module(module)


def _told(error: BaseException) -> dict[str, str]:
    """The error, so that the parent can raise it again."""
    traceback.print_exception(error)
    kind = type(error).__name__
    if kind in ("StreamDiffVSRError", "UsageError"):
        return {"kind": kind} | {name: getattr(error, name) for name in ("what", "why", "remedy")}
    return {"kind": kind, "what": str(error), "why": "", "remedy": ""}


if __name__ == "__main__":
    main()
