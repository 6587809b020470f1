"""The result of `gpu.py`, on disk after every change: a machine that vanishes leaves it behind."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .gpu_check import Row
from .latency.run import Benchmark, Settings
from .report.written import write_text

RUNNING = "it was not ended: this is what there was until then"


class Report:
    """What is known so far.

    Attributes:
        rows: `checks` of the result.
        failed: What did not work, each in one line.
        late: What there was no time for.
    """

    def __init__(self, path: Path, command: Sequence[str], minutes: float) -> None:
        self.path, self._command, self._minutes = path, list(command), minutes
        self.rows: list[Row] = []
        self.failed: list[str] = []
        self.late: list[str] = []
        self._measured: list[dict[str, Any]] = []
        self._running: Benchmark | None = None
        self._empty = Benchmark(Settings(baselines=()), lambda _: None).result()
        self.save()

    def add_row(self, row: Row) -> None:
        """A backend was checked; one that was tried and does not work has failed."""
        self.rows.append(row)
        if row["tried"] and not row["works"]:
            self.failed.append(f"{row['backend']}: {row['said']}")
        self.save()

    def fail(self, line: str) -> None:
        """Something else did not work."""
        self.failed.append(line)
        self.save()

    def begins(self, benchmark: Benchmark) -> None:
        """What it has measured is in every result from now on."""
        self._running = benchmark

    def ends(self) -> None:
        """The benchmark that began is over: its figures are kept, and its engines are not."""
        assert self._running is not None
        self._measured.append(self._running.result())
        self._running = None
        self.save()

    def works(self, backend: str) -> bool:
        """Whether a backend passed every check."""
        return any(row["backend"] == backend and row["works"] for row in self.rows)

    def save(self, *, ended: bool = False) -> dict[str, Any]:
        """Write the result as it is, and return it."""
        running = [] if self._running is None else [self._running.result()]
        result = _merged([*self._measured, *running] or [self._empty])
        told = list(self.failed)
        if result["stopped"]:
            told.append(result["stopped"])
        if self.late:
            told.append(f"not reached in {self._minutes:g} minutes: {', '.join(self.late)}")
        if not ended:
            told.append(RUNNING)
        result |= {
            "command": self._command,
            "checks": self.rows,
            "complete": not told,
            "stopped": "; ".join(told) or None,
        }
        write_text(self.path, json.dumps(result, indent=1) + "\n")
        return result

    @property
    def measuring_failed(self) -> bool:
        """Whether a benchmark was stopped by what it measured."""
        return any(result["stopped"] for result in self._measured)


def _merged(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Results of one machine as one; subjects of different sizes are not compared anyway."""
    merged = dict(results[0])
    for name in ("subjects", "comparisons", "baselines"):
        merged[name] = [entry for result in results for entry in result[name]]
    merged["noise"] = _noisiest([result["noise"] for result in results])
    warm_up = max(result["settings"]["warm_up"] for result in results)
    merged["settings"] = merged["settings"] | {"warm_up": warm_up}
    merged["stopped"] = "; ".join(r["stopped"] for r in results if r["stopped"]) or None
    return merged


def _noisiest(noises: list[dict[str, Any]]) -> dict[str, Any]:
    """The worst of each criterion."""
    worst = {
        name: max((noise[name] for noise in noises if noise[name] is not None), default=None)
        for name in ("p50_spread", "others_cpu", "probe_spread", "probe_ms")
    }
    why = list(dict.fromkeys(line for noise in noises for line in noise["why"]))
    return noises[0] | worst | {"noisy": bool(why), "why": why}
