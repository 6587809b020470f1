"""Upscales one part of a job in a child process, and reports its progress.

It is started like the media children, and like them ends with its parent.
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
    """Sends the number of frames done after each frame, then ``end``."""
    messages.end_with_parent(inbox)
    # Engines on a CPU would take every core: each process gets its share.
    os.environ.setdefault(THREADS, str(max(1, usable_cpus() // order["workers"])))
    job = Job.from_json(order["job"])
    part = FrameRange(**{**order["part"], "times": Times(**order["part"]["times"])})

    def tell(frames: int) -> None:
        messages.send(outbox, {"kind": "frames", "frames": frames})

    upscaler = load(order["engines"], order["device"], job.info.size)
    upscale_range(job, part, Path(order["folder"]), upscaler, tell)
    messages.send(outbox, {"kind": "end"})
