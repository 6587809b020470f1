"""Engine sets and frames made on a CPU for a GPU elsewhere: `gpu.py` takes them, and builds less.

    python -m streamdiffvsr.research.gpu.ahead build/ahead --backend onnxruntime

The gate of the sets stays pending: each is checked where it is first opened. A set of torch's or
TensorRT-RTX's is of the version installed here, and is built anew where another is.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

from ...building.request import BuildRequest
from ...building.spec import execute, resolve
from ...engines.cache import refuse_foreign, staged
from ...engines.registry import BACKENDS, default_precision
from .reference import MODEL, SMALL, make_reference, set_name

BUILT_ON_A_CPU = ("torch", "onnxruntime", "tensorrt-rtx")


def main() -> None:
    """Make what was asked for, in a folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--backend", action="append", choices=BUILT_ON_A_CPU, default=[])
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    print(make_reference(given.folder, _say))
    for backend in given.backend:
        if given.device in BACKENDS[backend].devices:
            print(build_ahead(backend, given.device, given.folder))


def build_ahead(backend: str, device: str, folder: Path) -> Path:
    """The built-in model's engines for a device that need not be here."""
    out = folder / set_name(MODEL, SMALL, backend, device)
    # What is run as it was exported is settled for a CPU, as the graphs are the same; a library
    # that compiles asks for its own device.
    settled = device if BACKENDS[backend].compile is not None else "cpu"
    precision = default_precision(device)
    request = BuildRequest(model=MODEL, backend=backend, precision=precision, device=settled)
    order, _ = resolve(request, SMALL, out=out)
    order = replace(order, key=replace(order.key, device=device), started=time.monotonic())
    refuse_foreign(out)
    with staged(out) as stage:
        execute(replace(order, stage=stage), _say)
    return out


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
