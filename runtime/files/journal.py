"""Stores what a job has finished on disk, safe from a kill, a power cut and a full disk.

OUTPUT.unfinished/
    job.json        the job's identity: a different job does not resume it
    lock            locked by the process that works here
    part-000/       one run of frames, by one process
        journal     a line for each finished segment, appended once its files are on the disk
        000007.mkv  segments
        000007.state, 000007.cuts   what the frame after that segment needs; the last few
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ...durable import beside, why, write_atomically
from ...errors import StreamDiffVSRError, option
from ...reading import parse_json, read_json, read_small
from .checkpoint import POINT_SUFFIXES, Checkpoint, forget_old_points

SUFFIX = ".unfinished"
JOB, LOCK = "job.json", "lock"
MAX_JOB_BYTES, MAX_JOURNAL_BYTES = 2**22, 2**28


@dataclass(slots=True)
class Journal:
    """The finished segments of one part.

    Attributes:
        segments: As their writer described them, in order.
        point: The checkpoint after the last segment; None if there is none.
    """

    folder: Path
    segments: list[dict[str, Any]] = field(default_factory=list)
    point: Checkpoint | None = None

    @property
    def frames(self) -> int:
        """The number of finished frames."""
        return self.point.frames if self.point else 0

    @classmethod
    def open(cls, folder: Path) -> Journal:
        """Reads a journal up to the last segment that is complete and has a whole checkpoint."""
        folder.mkdir(parents=True, exist_ok=True)
        entries = list(_whole_entries(folder))
        while entries:
            point = Checkpoint.load(folder, entries[-1])
            if point is not None:
                break
            entries.pop()
        _rewrite(folder / "journal", entries)
        _remove_strays(folder, entries)
        return cls(folder, [entry["segment"] for entry in entries], point if entries else None)

    def save_point(self, point: Checkpoint) -> None:
        """Saves what the frame after a segment needs, before that segment is committed.

        Raises:
            StreamDiffVSRError: The disk is full.
        """
        with _disk_errors(self.folder):
            point.save(self.folder)

    def commit(self, segment: Mapping[str, Any], point: Checkpoint) -> None:
        """Enters a segment that is on the disk, after `save_point` was called with its checkpoint.

        Raises:
            StreamDiffVSRError: The disk is full; then the segment is not entered.
        """
        entry = {"segment": dict(segment), **point.to_json()}
        with (
            _disk_errors(self.folder),
            (self.folder / "journal").open("a", encoding="utf-8") as file,
        ):
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.segments.append(entry["segment"])
        self.point = point
        forget_old_points(self.folder)


def folder_of(output: Path) -> Path:
    """Returns the folder that keeps the parts of an output until it is complete."""
    return beside(output, after=SUFFIX)


def frames_kept(output: Path) -> int:
    """Returns the number of frames that an interrupted run has left of an output."""
    parts = folder_of(output).glob("part-*")
    return sum(entries[-1]["frames"] for part in parts if (entries := list(_entries(part))))


@contextmanager
def locked(output: Path) -> Iterator[Path]:
    """Gives the block the unfinished folder of an output, locked for this process.

    Raises:
        StreamDiffVSRError: Another process is working on that output.
    """
    folder, ours = folder_of(output), True
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        folder.mkdir(exist_ok=True)
        lock.acquire()
        yield folder
    except Timeout as error:
        ours = False
        raise StreamDiffVSRError(
            f"could not write {str(output)!r}",
            "another run is making it right now",
            "wait for it, or choose another name",
        ) from error
    finally:
        lock.release()
        if ours and {path.name for path in folder.iterdir()} <= {LOCK, JOB}:
            shutil.rmtree(folder, ignore_errors=True)


def clear(folder: Path) -> None:
    """Removes everything in the folder except the lock."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink(missing_ok=True)


def note_job(folder: Path, job: Mapping[str, Any]) -> None:
    """Writes the identity of the folder's job."""
    _rewrite(folder / JOB, [job])


def differing(folder: Path, job: Mapping[str, Any]) -> list[str]:
    """Returns in words how the folder's job differs from another one.

    Entries that are not in `job`, and options that the folder's job lacks, are not compared.
    """
    try:
        begun = read_json(folder / JOB, MAX_JOB_BYTES)
    except (OSError, ValueError):
        return ["its description is damaged"]
    ours = json.loads(json.dumps(job))
    found: list[str] = []
    names = {name for name in ours if ours[name] != begun.get(name)}
    if "options" in names:
        names.discard("format")  # follows from them
    for name in sorted(names):
        old, new = begun.get(name), ours[name]
        if name == "options" and isinstance(old, dict):
            changed = [key for key in new if key in old and new[key] != old[key]]
            found += [f"{key} was {_shown(old.get(key))}, is {_shown(new[key])}" for key in changed]
        else:
            found.append(f"other {name}")
    return found


def _shown(value: Any) -> str:
    return "not given" if value is None else str(value)


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StreamDiffVSRError(
            f"could not write in {str(folder)!r}",
            why(error),
            f"make room, and go on with {option('resume', True)}",
        ) from error


def _rewrite(path: Path, lines: list[Any]) -> None:
    with write_atomically(path, sync=True) as part:
        part.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def _entries(folder: Path) -> Iterator[dict[str, Any]]:
    """Yields the entries of a journal, up to a line that a power cut has left incomplete."""
    try:
        content = read_small(folder / "journal", MAX_JOURNAL_BYTES)
    except (OSError, ValueError):
        return
    for line in content.decode("utf-8", errors="replace").splitlines():
        try:
            entry: dict[str, Any] = parse_json(line)
        except ValueError:
            return
        yield entry


def _whole_entries(folder: Path) -> Iterator[dict[str, Any]]:
    """Yields the entries up to the first whose files are missing or incomplete."""
    for entry in _entries(folder):
        files = [folder / name for name in entry["segment"]["files"]]
        if not all(path.is_file() for path in files):
            return
        if sum(path.stat().st_size for path in files) != entry["segment"]["bytes"]:
            return
        yield entry


def _remove_strays(folder: Path, entries: list[dict[str, Any]]) -> None:
    """Removes what a killed run has left unfinished."""
    known = {folder / name for entry in entries for name in entry["segment"]["files"]}
    known.add(folder / "journal")
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        if path not in known and path.suffix not in POINT_SUFFIXES:
            path.unlink(missing_ok=True)
