"""What engines compute in, as a user names it, and what their graphs' tensors are.

fp8 is fp16 in which `denoise` multiplies in eight bits: its graphs and their tensors are fp16's.
"""

from __future__ import annotations

from ..errors import UsageError
from ..spec import Precision

FP8 = "fp8"
FLOATS = ("fp32", "fp16")
PRECISIONS = (*FLOATS, FP8)
FP8_CAPABILITY = 89  # Ada, Hopper, Blackwell: older tensor cores have no e4m3


def graph_precision(name: str) -> Precision:
    """What the graphs of a set are exported in."""
    return "fp32" if name == "fp32" else "fp16"


def check_precision(name: str) -> None:
    """Raise `UsageError` unless there is such a precision."""
    if name not in PRECISIONS:
        known = f"{', '.join(PRECISIONS[:-1])} or {PRECISIONS[-1]}"
        raise UsageError(f"unknown precision {name!r}", remedy=f"use {known}")


def check_capability(capabilities: tuple[int, ...], precision: str) -> None:
    """Raise `UsageError` where one of the GPUs that engines are for cannot compute so.

    Args:
        capabilities: Of those GPUs, 89 for 8.9.
    """
    short = [c for c in capabilities if c < FP8_CAPABILITY]
    if precision == FP8 and short:
        told = ", ".join(f"{c // 10}.{c % 10}" for c in short)
        raise UsageError(
            "fp8 engines need compute capability 8.9 or newer",
            f"a GPU of {told} does not multiply in fp8",
            "leave it out (--compute-capabilities 8.9,12.0), or use --precision fp16",
        )
