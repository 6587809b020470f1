"""A part of a job in a process of its own: engines, frames, segments; told frame by frame.

Started as the media children are, and ended with its parent like them.
"""

from __future__ import annotations

import os
from io import RawIOBase
from pathlib import Path
from typing import Any

from ...engines.onnxruntime_backend import THREADS, usable_cpus
from ..processes import messages
from ..upscaler import load
from .checkpoint import Times
from .frame_loop import FrameRange, upscale_range
from .job import Job


def serve(order: dict[str, Any], inbox: RawIOBase, outbox: RawIOBase) -> None:
    """Send how many frames of the part are done, then ``end``."""
    messages.end_with_parent(inbox)
    # Engines on a CPU take every core: of several processes, each has its share.
    os.environ.setdefault(THREADS, str(max(1, usable_cpus() // order["workers"])))
    job = Job.from_json(order["job"])
    part = FrameRange(**{**order["part"], "times": Times(**order["part"]["times"])})

    def tell(frames: int) -> None:
        messages.send(outbox, {"kind": "frames", "frames": frames})

    upscaler = load(order["engines"], order["device"])
    upscale_range(job, part, Path(order["folder"]), upscaler, tell)
    messages.send(outbox, {"kind": "end"})
