"""Runs several jobs one after another: finished ones are skipped, and a failure stops no other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ...errors import StreamDiffVSRError, option
from ...graphs.spec import Size
from ..media.readable import is_numbered, numbered_images
from .inputs import InOut

if TYPE_CHECKING:
    from .job_report import JobReport

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
