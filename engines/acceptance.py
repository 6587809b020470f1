"""Where an engine set has passed the parity gate: a small file beside its plans.

A plan runs other kernels on another GPU, driver or library, so it is gated once on each. The record
belongs to one manifest: a set that was built again is gated again.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .gpu import Gpu
from .manifest import MANIFEST, ParityEntry, file_entry

ACCEPTANCE = "acceptance.json"
MAX_BYTES = 2**20


def is_accepted(folder: Path, gpu: Gpu, library: str) -> bool:
    """Whether this very set has passed on this kind of GPU, driver and library version."""
    return _place(folder, gpu, library) in [entry["place"] for entry in _read(folder)]


def record_acceptance(
    folder: Path, gpu: Gpu, library: str, parity: Mapping[str, ParityEntry]
) -> None:
    """Remember that it has; a set that cannot be written is simply gated at every start."""
    place = _place(folder, gpu, library)
    kept = [entry for entry in _read(folder) if entry["place"] != place]
    entries = {name: asdict(entry) for name, entry in parity.items()}
    text = json.dumps([*kept, {"place": place, "parity": entries}], indent=2)
    part = folder / f".{ACCEPTANCE}.{os.getpid()}"
    with contextlib.suppress(OSError):
        part.write_text(text + "\n", encoding="utf-8")
        os.replace(part, folder / ACCEPTANCE)


def _place(folder: Path, gpu: Gpu, library: str) -> dict[str, str]:
    manifest = file_entry(folder / MANIFEST).sha256
    return {"gpu": gpu.name, "driver": gpu.driver, "library": library, "manifest": manifest}


def _read(folder: Path) -> list[dict[str, Any]]:
    path = folder / ACCEPTANCE
    try:
        if path.stat().st_size > MAX_BYTES:
            return []
        entries = json.loads(path.read_text(encoding="utf-8"))
        return [entry for entry in entries if isinstance(entry["place"], dict)]
    except (OSError, ValueError, KeyError, TypeError):
        return []  # missing or damaged: gated again
