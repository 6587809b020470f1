"""What a job has finished, on disk: it outlives a kill, a power cut and a full disk.

    OUTPUT.unfinished/
        job.json        what is being made of what: another job does not go on with it
        lock            held by the process that works here
        part-000/       one run of frames, by one process
            journal     a line for each finished segment, appended when all it names is on the disk
            000007.mkv  segments
            000007.state, 000007.cuts   what the frame after that segment needs; the last two

It knows no video and no model: segments are whatever their writer says of them.
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
from .checkpoint import POINT_SUFFIXES, Checkpoint, forget_old_points

SUFFIX = ".unfinished"
JOB, LOCK = "job.json", "lock"


@dataclass(slots=True)
class Journal:
    """The finished segments of one part.

    Attributes:
        segments: As their writer described them, in order.
        point: Behind the last of them; None if there is none.
    """

    folder: Path
    segments: list[dict[str, Any]] = field(default_factory=list)
    point: Checkpoint | None = None

    @property
    def frames(self) -> int:
        """How many frames are finished."""
        return self.point.frames if self.point else 0

    @classmethod
    def open(cls, folder: Path) -> Journal:
        """Read what is there, up to the last segment that is whole and can be gone on from."""
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

    def hold(self, point: Checkpoint) -> None:
        """Write down what the frame after a segment needs, before that segment is committed.

        Raises:
            StreamDiffVSRError: The disk is full.
        """
        with _told(self.folder):
            point.save(self.folder)

    def commit(self, segment: Mapping[str, Any], point: Checkpoint) -> None:
        """A segment and all before it are on the disk, and `hold` was called with the point.

        Raises:
            StreamDiffVSRError: The disk is full; the segment is not counted then.
        """
        entry = {"segment": dict(segment), **point.to_json()}
        with _told(self.folder), (self.folder / "journal").open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.segments.append(entry["segment"])
        self.point = point
        forget_old_points(self.folder)


def folder_of(output: Path) -> Path:
    """Where the parts of an output are kept until it is whole."""
    return beside(output, after=SUFFIX)


def frames_kept(output: Path) -> int:
    """How many frames of an output an interrupted run has left to go on from."""
    parts = folder_of(output).glob("part-*")
    return sum(entries[-1]["frames"] for part in parts if (entries := list(_entries(part))))


@contextmanager
def locked(output: Path) -> Iterator[Path]:
    """The unfinished folder of an output, for this process alone while the block runs.

    Raises:
        StreamDiffVSRError: Another process is at work on that output.
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
            "another run is making it just now",
            "wait for it, or choose another name",
        ) from error
    finally:
        lock.release()
        if ours and {path.name for path in folder.iterdir()} <= {LOCK, JOB}:
            shutil.rmtree(folder, ignore_errors=True)


def clear(folder: Path) -> None:
    """Remove the parts in the folder; the lock stays for whoever holds it."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink(missing_ok=True)


def note_job(folder: Path, job: Mapping[str, Any]) -> None:
    """Write down what the folder is for."""
    _rewrite(folder / JOB, [job])


def differing(folder: Path, job: Mapping[str, Any]) -> list[str]:
    """In which points the job that the folder was begun for is another one, in words.

    What is not in `job`, and an option that was not written down, is not compared.
    """
    try:
        begun = json.loads((folder / JOB).read_text(encoding="utf-8"))
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
def _told(folder: Path) -> Iterator[None]:
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
    """The lines of a journal; what a power cut left of the last one is none."""
    try:
        lines = (folder / "journal").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        try:
            entry: dict[str, Any] = json.loads(line)
        except ValueError:
            return
        yield entry


def _whole_entries(folder: Path) -> Iterator[dict[str, Any]]:
    """Up to the first whose files are gone or cut off."""
    for entry in _entries(folder):
        files = [folder / name for name in entry["segment"]["files"]]
        if not all(path.is_file() for path in files):
            return
        if sum(path.stat().st_size for path in files) != entry["segment"]["bytes"]:
            return
        yield entry


def _remove_strays(folder: Path, entries: list[dict[str, Any]]) -> None:
    """What a killed run has left unfinished."""
    known = {folder / name for entry in entries for name in entry["segment"]["files"]}
    known.add(folder / "journal")
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        if path not in known and path.suffix not in POINT_SUFFIXES:
            path.unlink(missing_ok=True)
