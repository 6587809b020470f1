"""Upscales one job in several processes, split at scene cuts; the frames are those of one run.

After a cut nothing of earlier frames is used, noise depends on the frame's index, and segments
begin at cuts anyway: so each part equals that piece of a single run. Cuts are found beforehand.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path

from ...engines.manifest import read_manifest
from ...engines.trust import KEY_VARIABLES
from ...errors import UsageError
from ...reading import read_json
from ..frame_stream import CutDetector
from ..processes.child import Child
from .checkpoint import Segmenter, Times, frames_of
from .frame_loop import FrameRange
from .job import Job, Progress
from .journal import Journal
from .upscale import UpscaleReport, carry_out

PARTS = "parts.json"
MAX_PARTS_BYTES = 2**22
_LONGEST_FRAME_S = 3600.0  # the deadline for a frame, or for opening engines, in a worker

Tell = Callable[[int], None]


def upscale_job_in_chunks(
    job: Job,
    engines: Path,
    *,
    chunks: int,
    device: str | None = None,
    progress: Progress | None = None,
) -> UpscaleReport:
    """Upscales a video in several processes, each with engines of its own.

    Args:
        job: A job that `open_job` or `inspect_job` has opened.
        engines: An engine set for frames of the input's size.
        chunks: The most processes; there are fewer if there are not enough scene cuts.
        device: The GPU that all processes use, "cuda:1"; None is the first.

    Raises:
        StreamDiffVSRError: See `upscale_file`.
        UsageError: Scene cuts are turned off.
    """
    if not job.options.scene_cuts:
        raise UsageError("chunks begin at scene cuts, and those are turned off", "", "allow them")
    manifest = read_manifest(engines)
    opens = {"engines": str(engines.absolute()), "device": device}

    def in_processes(job: Job, folder: Path, tell: Tell) -> Sequence[Journal]:
        parts = _planned(job, folder, chunks)
        _run_all(job, parts, folder, opens, tell)
        return [Journal.open(folder / part.name) for part in parts]

    size = manifest.graphs.geometry.size
    return carry_out(job, size, manifest.key.digest(), chunks, in_processes, progress)


def split(job: Job, chunks: int) -> list[FrameRange]:
    """Returns parts of about the same length; each but the first begins at a scene cut."""
    cuts = list(_cuts(job))
    total = cuts.pop().first  # the end of the job
    wanted = [total * number / chunks for number in range(1, chunks)]
    chosen = {min(cuts, key=lambda cut: abs(cut.first - at)) for at in wanted} if cuts else set()
    first = [FrameRange(), *sorted(chosen, key=lambda part: part.first)]
    last = [part.first for part in first[1:]] + [total]
    return [
        FrameRange(number, part.first, end - part.first, part.pts, part.times)
        for number, (part, end) in enumerate(zip(first, last, strict=True))
    ]


def _cuts(job: Job) -> Iterator[FrameRange]:
    """Yields an endless part for each cut that begins a segment, and one for the job's end."""
    detector, segmenter, times = CutDetector(), Segmenter(), Times()
    source, frames = frames_of(job)
    count, pts = 0, None
    with source:
        for frame in frames:
            if job.is_end(count, frame):
                break
            cut = detector.is_cut(frame.image)
            if segmenter.starts_segment(cut) and cut:
                yield FrameRange(first=count, pts=pts, times=times)
            times = times.after(frame.pts, frame.duration)
            count, pts = count + 1, frame.pts
    yield FrameRange(first=count, pts=pts, times=times)


def _planned(job: Job, folder: Path, chunks: int) -> list[FrameRange]:
    """Returns the parts of the job, which are saved for a run that resumes it."""
    path = folder / PARTS
    if path.exists():
        found = read_json(path, MAX_PARTS_BYTES)
        return [FrameRange(**{**part, "times": Times(**part["times"])}) for part in found]
    parts = split(job, chunks)
    path.write_text(json.dumps([asdict(part) for part in parts]), encoding="utf-8")
    return parts


def _run_all(
    job: Job, parts: Sequence[FrameRange], folder: Path, opens: Mapping[str, str | None], tell: Tell
) -> None:
    """Runs each part in a process that opens the engines; the first failure ends all."""
    done = [0] * len(parts)
    with ThreadPoolExecutor(len(parts)) as pool, ExitStack() as workers:
        futures: set[Future[None]] = set()
        for part in parts:
            worker = workers.enter_context(closing(_start(job, part, folder, opens, len(parts))))
            futures.add(pool.submit(_follow, worker, done, part.number))
        while futures:
            ended, futures = wait(futures, 0.5, FIRST_EXCEPTION)
            for future in ended:
                future.result()
            tell(sum(done))


def _start(
    job: Job, part: FrameRange, folder: Path, opens: Mapping[str, str | None], workers: int
) -> Child:
    order = {
        "job": job.to_json(),
        "part": asdict(part),
        "folder": str(folder.absolute()),
        **opens,
        "workers": workers,
    }
    return Child(
        "runtime.files.chunk_child",
        order,
        failure=f"could not upscale {str(job.input)!r}",
        deadline_s=_LONGEST_FRAME_S,
        keeps=KEY_VARIABLES,
    )


def _follow(worker: Child, done: list[int], number: int) -> None:
    """Notes how many frames of a part are done, until all are."""
    while True:
        message, _ = worker.receive()
        if message["kind"] == "end":
            return
        done[number] = message["frames"]
