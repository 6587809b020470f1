"""Finds the jobs that INPUT... and OUTPUT name, a single one or a batch, and runs a batch.

Only names and folders are looked at, not the content of files: a file that is missing or is not a
video becomes a job here, and fails as one. In a batch, finished jobs are skipped, and a failure
stops no other.
"""

from __future__ import annotations

import glob
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ...errors import StreamDiffVSRError, UsageError, option
from ...graphs.spec import Size
from ..media import readable
from ..media.encoders import CONTAINERS
from ..media.preflight import check_input_name, check_output_name
from ..media.readable import VIDEO_ENDINGS, is_numbered, numbered_images
from .journal import SUFFIX

if TYPE_CHECKING:
    from .job_report import JobReport


IMAGES = frozenset(readable.SUFFIXES)
KEPT_SUFFIXES = frozenset(CONTAINERS)  # endings that outputs can have too
FALLBACK_SUFFIX = ".mkv"  # holds nearly everything


@dataclass(frozen=True, slots=True)
class InOut:
    """The paths of one job: its input and the output that is made of it."""

    input: Path
    output: Path


@dataclass(frozen=True, slots=True)
class JobList:
    """The jobs of a command line.

    Attributes:
        folder: The folder for the outputs of a batch; None for a single pair.
    """

    pairs: tuple[InOut, ...]
    folder: Path | None = None


def name_pairs(inputs: Sequence[str], output: str, *, images: bool = False) -> JobList:
    """Returns the jobs that a command line names.

    One file, one folder of images, or one numbered pattern (``frame_%05d.png``) is a job whose
    output is OUTPUT. Several inputs, a folder of videos, and a pattern are a batch: OUTPUT is then
    a folder, in which each output has the name of its input, with the same ending if videos can be
    written with it, else .mkv. An image folder becomes an image folder there.

    Args:
        inputs: Files, folders, or patterns (``*``, ``?``, ``[...]``, ``**``) that the shell has
            not expanded.
        output: OUTPUT as it was typed, including a separator at the end.
        images: Whether the outputs are folders of images, regardless of the inputs.

    Raises:
        StreamDiffVSRError: An input names no file, a pattern matches nothing, a folder contains
            neither videos nor images or both, or an output is its own input.
        UsageError: A batch's OUTPUT is a file, or two inputs would have the same output.
    """
    for text in inputs:
        check_input_name(text)
    check_output_name(output)
    found, batch = _found(inputs)
    if not batch:
        return JobList((InOut(found[0], Path(output)),))
    folder = _folder(output, len(found))
    _refuse_single_images(found)
    pairs = tuple(InOut(path, folder / _name(path, images=images)) for path in found)
    _refuse_clashes(pairs)
    return JobList(pairs, folder)


def _found(inputs: Sequence[str]) -> tuple[list[Path], bool]:
    """Returns the inputs without repetition, and whether they are a batch."""
    found: dict[str, Path] = {}
    batch = len(inputs) > 1
    for text in inputs:
        paths, many = _named_by(text)
        batch = batch or many
        for path in paths:
            found.setdefault(os.path.realpath(path), path)
    return list(found.values()), batch


def _named_by(text: str) -> tuple[list[Path], bool]:
    path = Path(text)
    if path.is_dir():
        return _in_folder(path)
    if path.exists() or not glob.has_magic(text) or readable.is_numbered(path):
        return [path], False
    matches = [Path(match) for match in glob.glob(text, recursive=True)]
    media = [one for one in matches if _is_media(one)]
    if not media and path.suffix and not glob.has_magic(path.suffix):  # an unknown ending, by name
        media = [one for one in matches if one.suffix == path.suffix and one.is_file()]
    media.sort(key=lambda one: readable.natural_key(str(one)))
    if not media:
        raise StreamDiffVSRError(
            f"could not read {text!r}", "no video and no folder of images matches that pattern"
        )
    return media, True


def _is_media(path: Path) -> bool:
    if path.is_dir():
        try:
            return not path.name.endswith(SUFFIX) and _in_folder(path) == ([path], False)
        except StreamDiffVSRError:
            return False
    return path.suffix.lower() in VIDEO_ENDINGS | IMAGES


def _in_folder(folder: Path) -> tuple[list[Path], bool]:
    """Returns the folder if it contains images, else its videos, and whether that is a batch."""
    try:
        entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError as error:
        raise StreamDiffVSRError(
            f"could not read {str(folder)!r}", error.strerror or str(error)
        ) from error
    videos = _with_ending(entries, VIDEO_ENDINGS)
    pictures = _with_ending(entries, IMAGES)
    if videos and pictures:
        raise StreamDiffVSRError(
            f"could not read {str(folder)!r}",
            f"it is a folder with both videos and images ({videos[0].name}, {pictures[0].name})",
            f"name those you mean by a pattern, such as '{folder / ('*' + videos[0].suffix)}'",
        )
    if not videos and not pictures:
        raise StreamDiffVSRError(
            f"could not read {str(folder)!r}",
            "it is a folder, with neither videos nor images in it",
            "name a video, a folder of videos, or a folder with the images of one",
        )
    return (videos, True) if videos else ([folder], False)


def _with_ending(entries: Iterable[Path], endings: Iterable[str]) -> list[Path]:
    chosen = (entry for entry in entries if entry.suffix.lower() in endings and entry.is_file())
    return sorted(chosen, key=lambda one: readable.natural_key(one.name))


def _folder(output: str, count: int) -> Path:
    folder = Path(output)
    if folder.exists() and not folder.is_dir():
        why = f"{count} inputs need a folder, and it is a file"
    elif (
        not folder.exists()
        and folder.suffix.lower() in VIDEO_ENDINGS | IMAGES
        and output[-1] not in "/\\"
    ):
        why = f"{count} inputs need a folder, and that is the name of a file"
    else:
        return folder
    raise UsageError(f"could not write {output!r}", why, "name a folder; it is made if missing")


def _name(path: Path, *, images: bool) -> str:
    if readable.is_numbered(path):
        return path.resolve().parent.name
    if images or path.is_dir():
        return path.resolve().name if path.is_dir() else path.stem
    return path.stem + (path.suffix if path.suffix.lower() in KEPT_SUFFIXES else FALLBACK_SUFFIX)


def _refuse_single_images(paths: Sequence[Path]) -> None:
    for path in paths:
        series = path.is_dir() or readable.is_numbered(path)
        if path.suffix.lower() in IMAGES and not series:
            raise UsageError(
                f"{str(path)!r} is one image among several inputs",
                "the images of a sequence are upscaled together, each with the help of the last",
                f"name their folder, {str(path.parent)!r}",
            )


def _refuse_clashes(pairs: Sequence[InOut]) -> None:
    taken: dict[str, Path] = {}
    for pair in pairs:
        # Case is ignored: on some disks A.mkv and a.mkv are the same file.
        other = taken.setdefault(str(pair.output).casefold(), pair.input)
        if other != pair.input:
            raise UsageError(
                f"{str(other)!r} and {str(pair.input)!r} would both become {str(pair.output)!r}",
                remedy="rename one, or give them folders of their own",
            )
        if os.path.realpath(pair.output) == os.path.realpath(pair.input):
            raise StreamDiffVSRError(
                f"could not write {str(pair.output)!r}",
                "it is the input file itself",
                "choose another folder",
            )


State = Literal["done", "skipped", "failed", "planned"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a job.

    Attributes:
        fields: The fields that the work returned, as JSON can carry them.
        why: The reason why the job was skipped or failed, in one line.
        seconds: The time spent on it.
    """

    pair: InOut
    state: State
    fields: Mapping[str, Any] = field(default_factory=dict)
    why: str = ""
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Returns the job's paths, its state, and all fields that the work returned."""
        why = {"failed": {"error": self.why}, "skipped": {"reason": self.why}}
        names = {"input": str(self.pair.input), "output": str(self.pair.output)}
        return {"state": self.state, **names, **self.fields, **why.get(self.state, {})}


def run_batch(
    pairs: Sequence[InOut],
    look: Callable[[InOut], JobReport],
    work: Callable[[JobReport], Mapping[str, Any]],
    *,
    overwrite: bool = False,
    plan: bool = False,
    begin: Callable[[int, InOut], None] = lambda number, pair: None,
    ended: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """Runs jobs; every failure becomes an outcome, while Ctrl-C is raised as usual.

    All jobs are inspected before the first one is run. Jobs of one group use the same engines: they
    are run group by group, in the order of the first job of each.

    Args:
        look: Inspects a job's input; raises what is wrong with it.
        work: Runs a job, and returns the fields of its outcome.
        overwrite: Whether finished jobs are run again.
        plan: Whether `work` only plans.
        begin: Called before `work` with the number of the job, from 1, and the pair.
        ended: Called with every outcome as soon as it is known.

    Returns:
        An outcome for each pair, in their order.
    """
    outcomes: dict[InOut, Outcome] = {}

    def settle(outcome: Outcome) -> None:
        outcomes[outcome.pair] = outcome
        ended(outcome)

    groups: dict[Size, list[tuple[InOut, JobReport]]] = {}
    for pair in pairs:
        with _failure_settles(pair, settle):
            if done := "" if overwrite else why_done(pair):
                settle(Outcome(pair, "skipped", why=done))
            else:
                seen = look(pair)
                groups.setdefault(seen.group, []).append((pair, seen))
    for pair, seen in (pair for group in groups.values() for pair in group):
        with _failure_settles(pair, settle):
            started = time.monotonic()
            begin(len(outcomes) + 1, pair)
            fields = work(seen)
            seconds = round(time.monotonic() - started, 3)
            settle(Outcome(pair, "planned" if plan else "done", fields, seconds=seconds))
    return [outcomes[pair] for pair in pairs]


def why_done(pair: InOut) -> str:
    """Returns why the job is finished, or "": an output that is not older than its input is done.

    Raises:
        StreamDiffVSRError: The output exists, and is older than its input.
    """
    made, given = _changed(pair.output), _changed(pair.input)
    if made is None or given is None:
        return ""
    if made >= given:
        return "done before"
    raise StreamDiffVSRError(
        f"could not write {str(pair.output)!r}",
        "it exists, and is older than its input",
        f"{option('overwrite', True)} replaces it",
    )


def _changed(path: Path) -> int | None:
    """Returns when a file, or the newest of a folder or pattern, was changed, in ns; or None."""
    try:
        if is_numbered(path):
            images = numbered_images(path)
            return max((image.stat().st_mtime_ns for image in images), default=None)
        if not path.is_dir():
            return path.stat().st_mtime_ns
        return max((entry.stat().st_mtime_ns for entry in path.iterdir()), default=None)
    except OSError:
        return None


@contextmanager
def _failure_settles(pair: InOut, settle: Callable[[Outcome], None]) -> Iterator[None]:
    """Turns an error in the block into the outcome of the pair, so that the next one is run."""
    try:
        yield
    except StreamDiffVSRError as error:
        settle(Outcome(pair, "failed", why=str(error)))
    except Exception as error:  # a bug must not stop a batch that runs overnight
        why = " ".join(f"unexpected {type(error).__name__}: {error}".split())
        settle(Outcome(pair, "failed", why=why))
