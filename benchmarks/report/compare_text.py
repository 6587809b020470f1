"""What the terminal shows of a comparison: what else differs first, then the figures."""

from __future__ import annotations

from collections.abc import Iterable
from typing import IO

from .compare import FASTER, SLOWER, Change, Comparison, SubjectChange
from .differences import OTHER_MACHINE
from .terminal import Terminal
from .wording import digits, megabytes, ms, seconds, spread, times


def show_comparison(comparison: Comparison, file: IO[str] | None = None) -> None:
    """Print what B is against A.

    Args:
        file: Where to; standard output if not given.
    """
    to = Terminal(file)
    for line in comparison.differences:
        to.line(line, "bold yellow" if line == OTHER_MACHINE else "yellow")
    for line in comparison.noisy:
        to.line(f"{line}. A change may be the machine's", "bold red")
    for name, only in (("A", comparison.only_in_a), ("B", comparison.only_in_b)):
        for subject in only:
            to.line(f"only in {name}: {subject}")
    if not comparison.subjects:
        to.line("no subject is in both: there is nothing to compare")
    for change in comparison.subjects:
        _subject(change, to)
    to.line(f"\n{summary(comparison)}", "bold")


def summary(comparison: Comparison) -> str:
    """All verdicts in one line, with why they may not be the program's."""
    verdicts = [mode.verdict for change in comparison.subjects for mode in change.modes]
    counts = ((verdicts.count(v), v) for v in (FASTER, SLOWER))
    changed = ", ".join(f"{count} {verdict}" for count, verdict in counts if count)
    within = verdicts.count("within the noise")
    told = [changed, f"{within} within the noise" if within else ""]
    doubts = ["other machines"] if OTHER_MACHINE in comparison.differences else []
    doubts += ["noisy or incomplete"] if comparison.noisy else []
    doubt = f" ({', '.join(doubts)}: see above)" if doubts and changed else ""
    return f"B against A: {', '.join(part for part in told if part) or 'nothing compared'}{doubt}"


def _subject(change: SubjectChange, to: Terminal) -> None:
    to.heading(change.id)
    rows = [
        (m.name, m.verdict, digits(m.a_ms), digits(m.b_ms), times(m.ratio), spread(m.band.ratios))
        for m in change.modes
    ]
    if rows:
        to.table(("frame, ms", "", "A", "B", "B / A", "by chance"), rows, left=2)
        whys = dict.fromkeys(mode.band.why for mode in change.modes)
        to.facts([("by chance", "; ".join(whys))])
    latencies = [(mode.name, mode.latency) for mode in change.modes if mode.latency]
    to.facts((f"{name} latency", _line(latency)) for name, latency in latencies)
    _changes("changed stages", change.stages, to)
    _changes("also changed", change.other, to)


def _changes(title: str, changes: Iterable[Change], to: Terminal) -> None:
    to.facts(
        (title if number == 0 else "", f"{change.name}: {_line(change)}")
        for number, change in enumerate(changes)
    )


def _line(change: Change) -> str:
    write = {"ms": ms, "s": seconds, "MiB": megabytes}[change.unit]
    return f"{write(change.a)} -> {write(change.b)} ({times(change.ratio)})"
