"""Exports the graphs that the built-in model ships: `make graphs`, after a change of either.

Each is compared with torch as it is written.
"""

from __future__ import annotations

import argparse
import shutil
from itertools import product
from pathlib import Path

from streamdiffvsr.building.graph_source import SHIPPED, GraphSource
from streamdiffvsr.export.model_source import BUILT_IN_FOLDER, model_digest
from streamdiffvsr.graphs.library import GraphOptions
from streamdiffvsr.graphs.spec import DEFAULT_STEPS, FLOW_SCALES

STEPS = (DEFAULT_STEPS, 2)
LOOKUPS = ("all-pairs", "on-demand")


def shipped_options() -> list[GraphOptions]:
    """Returns the options of which the built-in model ships the graphs."""
    return [GraphOptions("fp32", *rest) for rest in product(STEPS, FLOW_SCALES, LOOKUPS)]


def main() -> None:
    """Writes the graphs to a new folder, which replaces the old one when all are there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=SHIPPED, help="the folder to write")
    out: Path = parser.parse_args().out
    made = out.with_name(f"{out.name}.new")
    shutil.rmtree(made, ignore_errors=True)
    source = GraphSource(BUILT_IN_FOLDER, model_digest(BUILT_IN_FOLDER), made)
    for options in shipped_options():
        print(options)
        source.get(options, lambda line: print(f"  {line}"))
    shutil.rmtree(out, ignore_errors=True)
    made.rename(out)
    made.with_name(f".{made.name}.lock").unlink(missing_ok=True)
    print(f"{out}: {sum(p.stat().st_size for p in out.iterdir()) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
