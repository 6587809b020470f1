"""What every result has, whatever was measured; benchmarks/result_schema.json has it in words."""

from __future__ import annotations

import time
from typing import Any

SCHEMA = "streamdiffvsr.bench/1"


def make_result(
    *,
    timed: str,
    machine: dict[str, Any],
    noise: dict[str, Any],
    settings: dict[str, Any],
    stopped: str | None,
    **parts: Any,
) -> dict[str, Any]:
    """A result.

    Args:
        timed: From where to where, in words.
        machine: As from `machine.describe_machine`, before anything was measured.
        noise: As from `NoiseWatch.report`.
        settings: `frames`, `rounds`, `warm_up` and `seed`.
        stopped: Why measuring ended early, or None.
        parts: `subjects`, `comparisons`, `baselines`, `live`: what there is of them.
    """
    return {
        "schema": SCHEMA,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": [],
        "complete": stopped is None,
        "stopped": stopped,
        "timed": timed,
        "settings": settings,
        "machine": machine,
        "noise": noise,
        "subjects": [],
        "comparisons": [],
        "baselines": [],
        "live": None,
        **parts,
    }
