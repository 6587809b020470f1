"""What a device can do: its matrix rate and its copy bandwidth, measured in this run.

A rate is the best of several repetitions. It stands for a limit, and whatever else runs on a
machine can only make a repetition slower, never faster; the spread says how much it did. A copy
counts twice, as it reads and writes. Knows which measurement is for which device, not how to do it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...engines.interface import kind_of, ordinal_of
from ...graphs.spec import Precision
from .sample import Sample


@dataclass(frozen=True, slots=True)
class Rates:
    """A device's limits; None where they could not be measured, and `how` says why.

    Attributes:
        gflops: GFLOP/s of a matrix product at `precision`, 2 for each multiply-add.
        copy_gbps: GB/s of a copy, read and written bytes together.
        how: What was done, and how far the median repetition was below the best.
    """

    gflops: float | None
    copy_gbps: float | None
    precision: Precision
    how: str

    def to_json(self) -> dict[str, Any]:
        """The `rates` object of a result."""
        return {
            "gflops": None if self.gflops is None else round(self.gflops, 1),
            "copy_gbps": None if self.copy_gbps is None else round(self.copy_gbps, 2),
            "precision": self.precision,
            "how": self.how,
        }


def measure_rates(device: str, precision: Precision) -> Rates:
    """Measure the device that engines run on, "cpu", "cuda" or "cuda:1"; takes a few seconds.

    Never fails: a rate that cannot be had is None, and `how` has the reason.
    """
    if kind_of(device) == "cuda":
        from .rates_cuda import copy_rate as copy_on_gpu
        from .rates_cuda import matrix_rate as matrix_on_gpu

        ordinal = ordinal_of(device)
        products, copies = matrix_on_gpu(precision, ordinal), copy_on_gpu(ordinal)
    else:
        from .rates_cpu import copy_rate, matrix_rate

        products, copies = matrix_rate(precision), copy_rate()
    return Rates(
        gflops=_best(products),
        copy_gbps=_best(copies),
        precision=precision,
        how="; ".join(_told(result) for result in (products, copies)),
    )


def _best(result: Sample | str) -> float | None:
    return None if isinstance(result, str) else result.best


def _told(result: Sample | str) -> str:
    if isinstance(result, str):
        return result
    count = len(result.values)
    return f"{result.how}, best of {count} (median {100 * result.spread:.0f} % below)"
