"""Makes engine sets and frames on a CPU for a GPU elsewhere, which then has less to build.

    python -m streamdiffvsr.research.gpu.ahead build/ahead --backend onnxruntime

The sets' gate stays pending: each set is checked where it is first opened. A set for torch or
TensorRT-RTX belongs to the version installed here, and is built again where there is another.
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
    """Makes the requested sets in a folder."""
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
    """Builds the built-in model's engines for a device that need not be here."""
    out = folder / set_name(MODEL, SMALL, backend, device)
    # A backend that runs graphs as exported is resolved for a CPU, because the graphs are the same;
    # a library that compiles requires its own device.
    resolved_for = device if BACKENDS[backend].compile is not None else "cpu"
    precision = default_precision(device)
    request = BuildRequest(model=MODEL, backend=backend, precision=precision, device=resolved_for)
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
