"""Several jobs, one after another: what is done already is skipped, and what fails stops no other.

Knows nothing of engines or video: looking at a job and doing it are functions that it is given.
"""

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
    """What became of a job.

    Attributes:
        told: What the work gave, for programs.
        why: Of a job that was skipped, or failed: one line.
        seconds: That were spent on it.
    """

    pair: InOut
    state: State
    told: Mapping[str, Any] = field(default_factory=dict)
    why: str = ""
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """The job's names, its state, and all that the work gave."""
        why = {"failed": {"error": self.why}, "skipped": {"reason": self.why}}
        names = {"input": str(self.pair.input), "output": str(self.pair.output)}
        return {"state": self.state, **names, **self.told, **why.get(self.state, {})}


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
    """Do the jobs; every failure is an outcome. What is no failure of a job (Ctrl-C) goes through.

    All are looked at before the first is worked on. Jobs of one group use the same engines: they
    are done group by group, in the order of the first of each.

    Args:
        look: Reads what a job's input is; raises what is wrong with it.
        work: Does it, and gives what is to be told.
        overwrite: Do again what is done already.
        plan: What `work` does is only planning.
        begin: Hears the number, from 1, and the pair, before `work` gets it.
        ended: Hears of every outcome as it comes.

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
            told = work(seen)
            seconds = round(time.monotonic() - started, 3)
            settle(Outcome(pair, "planned" if plan else "done", told, seconds=seconds))
    return [outcomes[pair] for pair in pairs]


def why_done(pair: InOut) -> str:
    """Why nothing is to be done, or "" if there is: an output as new as its input is done.

    Raises:
        StreamDiffVSRError: There is an output, and it is older than its input.
    """
    made, given = _changed(pair.output), _changed(pair.input)
    if made is None or given is None:
        return ""
    if made >= given:
        return "done before"
    raise StreamDiffVSRError(
        f"could not write {str(pair.output)!r}",
        "it exists, and is older than its input",
        f"{option('overwrite', True)} makes it anew",
    )


def _changed(path: Path) -> int | None:
    """When a file, or the newest of a folder or pattern, was changed, in ns; None without one."""
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
    """Whatever fails in the block is the outcome of the pair, and the next one is done."""
    try:
        yield
    except StreamDiffVSRError as error:
        settle(Outcome(pair, "failed", why=str(error)))
    except Exception as error:  # a fault of ours, in one of a night's many files
        told = " ".join(f"unexpected {type(error).__name__}: {error}".split())
        settle(Outcome(pair, "failed", why=told))
