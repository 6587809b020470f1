"""More of the corpus than CI runs, with a table of what fell out.

``python -m streamdiffvsr.tests.files.corpus --count 200 [--seed S] [--only N ...] [--keep DIR]``
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

from .checks import Fault
from .recipes import Recipe, recipes
from .trying import faults_of


def main() -> int:
    """Run it; 1 if anything is wrong."""
    asked = argparse.ArgumentParser(prog="streamdiffvsr.tests.files.corpus", description=__doc__)
    asked.add_argument("--count", type=int, default=200, help="files 0 to COUNT - 1")
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--only", type=int, nargs="*", help="these files alone")
    asked.add_argument("--keep", type=Path, help="a folder for the files; else they are removed")
    options = asked.parse_args()
    numbers = options.only or range(options.count)
    chosen = [recipes(options.seed, max(numbers) + 1)[number] for number in numbers]
    started, found = time.monotonic(), {}
    for made in chosen:
        found[made] = faults = _tried(made, options.keep)
        if faults:
            print(made, *(f"    {fault}" for fault in faults), sep="\n", flush=True)
    _table(found, time.monotonic() - started)
    return int(any(found.values()))


def _tried(made: Recipe, keep: Path | None) -> list[Fault]:
    with tempfile.TemporaryDirectory() as passing:
        folder = keep / str(made.number) if keep else Path(passing)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            return faults_of(made, folder)
        except Exception:  # faults of one file are reported, and the others go on
            return [Fault("file", "failed", traceback.format_exc(limit=-2))]


def _table(found: dict[Recipe, list[Fault]], seconds: float) -> None:
    kinds = Counter(f"{fault.stage}: {fault.kind}" for faults in found.values() for fault in faults)
    whole = sum(not faults for faults in found.values())
    print(
        f"\n{len(found)} files in {seconds:.0f} s: {whole} right, {len(found) - whole} with faults"
    )
    for kind, count in kinds.most_common():
        print(f"{count:5}  {kind}")
    of = Counter(made.still.split()[0] if made.still else made.suffix for made in found)
    wrong = Counter(
        made.still.split()[0] if made.still else made.suffix for made, f in found.items() if f
    )
    print("right of all, by kind of file:")
    print("  " + ", ".join(f"{name} {of[name] - wrong[name]}/{of[name]}" for name in sorted(of)))


if __name__ == "__main__":
    sys.exit(main())
