"""Work, rates and limits by themselves; `streamdiffvsr bench` has them in its result.

    python -m streamdiffvsr.research.roofline --table
    python -m streamdiffvsr.research.roofline --comparison
    python -m streamdiffvsr.research.roofline --engines DIR
    python -m streamdiffvsr.research.roofline --rates cpu
    python -m streamdiffvsr.research.roofline --count

Prints markdown, and JSON as the last line.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...benchmarks.roofline.engine_work import engine_work
from ...benchmarks.roofline.limits import measure_rates
from ...errors import StreamDiffVSRError
from .comparison import ORIGINALS, compare, comparison_markdown
from .counts import write_counts
from .table import live_markdown, live_rows, lookups_markdown, rows_json, sheets_markdown


def main() -> int:
    """Prints one of the tables; returns the exit status, 1 after an error."""
    summary, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--table", action="store_true", help="the live speed of GPUs")
    what.add_argument("--comparison", action="store_true", help="the graphs against the original")
    what.add_argument("--engines", type=Path, metavar="DIR", help="the work of an engine set")
    what.add_argument("--rates", choices=("cpu", "cuda"), help="measure this device's rates")
    what.add_argument("--count", action="store_true", help="write counts.json again (half an hour)")
    parser.add_argument("--precision", choices=("fp32", "fp16"), default="fp32", help="of --rates")
    options = parser.parse_args()
    try:
        text, data = _answer(options)
    except StreamDiffVSRError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{text}\n" if text else "", end="")
    print(json.dumps(data))
    return 0


def _answer(options: argparse.Namespace) -> tuple[str, Any]:
    if options.table:
        rows = live_rows()
        tables = live_markdown(rows), sheets_markdown(), lookups_markdown()
        return "\n\n".join(tables), rows_json(rows)
    if options.comparison:
        data = {o.case: [asdict(row) for row in compare(o)] for o in ORIGINALS}
        return comparison_markdown(), data
    if options.engines is not None:
        return _work(options.engines)
    if options.rates is not None:
        rates = measure_rates(options.rates, options.precision).to_json()
        return _rates_markdown(options.rates, rates), rates
    write_counts(_log)
    return "", {"written": True}


def _rates_markdown(device: str, rates: dict[str, Any]) -> str:
    """Returns the measured rates as a table; "-" where one could not be measured."""
    figures = " | ".join(str(rates[name] or "-") for name in ("precision", "gflops", "copy_gbps"))
    return (
        "| device | precision | GFLOP/s | copy, GB/s | how |\n|---|---|---|---|---|\n"
        f"| {device} | {figures} | {rates['how']} |"
    )


def _work(folder: Path) -> tuple[str, Any]:
    """Returns the work of an engine set by graph and kind of operator, in one run of each."""
    frame = engine_work(folder, _log)
    lines = ["| graph | runs | operators | number | GFLOP | GB |", "|---|---|---|---|---|---|"]
    for name, work in frame.graphs.items():
        for kind, (number, flops, nbytes) in work.by_kind().items():
            figures = f"{number} | {1e-9 * flops:.4g} | {1e-9 * nbytes:.4g}"
            lines.append(f"| {name} | {frame.runs[name]} | {kind} | {figures} |")
    data = {
        name: {"runs": frame.runs[name], "flops": work.flops, "bytes": work.nbytes}
        for name, work in frame.graphs.items()
    }
    return "\n".join(lines), data | {"frame": {"flops": frame.flops, "bytes": frame.nbytes}}


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
