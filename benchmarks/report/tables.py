"""The tables that the terminal shows of a result and of a comparison, by rich.

They fit in 80 columns; where the output is not a terminal it is the same text without colours.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .compare import FASTER, OTHER_MACHINE, SLOWER, WITHIN, Change, Comparison, SubjectChange
from .metrics import METRICS
from .wording import (
    MODES,
    NONE,
    QUANTILES,
    accounted,
    baseline_name,
    digits,
    gpu,
    host_cost,
    live_rates,
    live_tiles,
    load_average,
    megabytes,
    ms,
    noise,
    power,
    quantile_cells,
    rates,
    seconds,
    settings,
    share,
    spread,
    stages,
    times,
    versions,
    what_ran,
    work_cells,
)

WIDTH, WIDEST = 80, 100
BAR = 16  # characters


class Terminal:
    """Prints headings, lines and tables.

    Args:
        file: The file to write to; standard output if not given.
    """

    def __init__(self, file: IO[str] | None = None) -> None:
        self._file = file or sys.stdout
        self._console = Console(file=self._file, highlight=False, markup=False, emoji=False)
        wide = self._console.width if self._console.is_terminal else WIDTH
        self._console.width = min(wide, WIDEST)
        self._block = "#" if self._console.options.ascii_only else "\u2588"

    def heading(self, text: str, about: str = "") -> None:
        """Prints a blank line and a title, with more about it on the next line."""
        self._print(Text(f"\n{text}", style="bold"))
        if about:
            self._print(Text(about, style="bright_black"))

    def line(self, text: str, style: str = "") -> None:
        """Prints a line, broken between words where it is too long."""
        self._print(Text(text, style=style))

    def facts(self, facts: Iterable[tuple[str, str]]) -> None:
        """Prints names and values in two columns; what has no value is left out."""
        rows = [(name, value) for name, value in facts if value]
        if rows:
            self.table((), rows, left=2)

    def table(self, head: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> None:
        """Prints a table of which the first `left` columns are words, the others figures."""
        rows = list(rows)
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=bool(head))
        for number in range(max(len(row) for row in (head, *rows))):
            title = Text(head[number], style="bright_black") if number < len(head) else ""
            words = number < left
            table.add_column(title, justify="left" if words else "right", overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        self._print(table)

    def bar(self, share: float) -> str:
        """Returns a bar for a share of one; at least a block for what is not nothing."""
        filled = min(BAR, max(round(BAR * share), 1 if share > 0 else 0))
        return (self._block * filled).ljust(BAR)

    def _print(self, what: Text | Table) -> None:
        if self._console.is_terminal:
            self._console.print(what)
            return
        with self._console.capture() as captured:
            self._console.print(what)
        for line in captured.get().splitlines():  # tables are filled up with spaces
            self._file.write(f"{line.rstrip()}\n")


Result = Mapping[str, Any]


def show_result(result: Result, file: IO[str] | None = None) -> None:
    """Prints a result (see `benchmarks/result_schema.json`) for a person.

    Args:
        file: The file to write to; standard output if not given.
    """
    to = Terminal(file)
    _conditions(result, to)
    for subject in result["subjects"]:
        _subject(subject, to)
    if result.get("live"):
        _live(result["live"], to)
    _ratios(result, to)
    _warnings(result, to)  # again, as the first ones may have scrolled away


def _conditions(result: Result, to: Terminal) -> None:
    machine = result["machine"]
    _warnings(result, to)
    to.line(f"timed: {result['timed']}")
    facts = [
        ("processor", f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}"),
        ("GPU", gpu(machine)),
        ("power", power(machine)),
        ("load average", load_average(machine)),
        ("versions", f"{versions(machine)}, Python {machine['python']}"),
        ("measured", ", ".join(part for part in (result["created"], settings(result)) if part)),
        ("noise", noise(result)),
    ]
    to.facts(facts)


def _warnings(result: Result, to: Terminal) -> None:
    if (result.get("noise") or {}).get("noisy"):
        why = "; ".join(result["noise"]["why"]) or "it does not say why"
        to.line(f"noisy: {why}. Do not quote these figures", "bold red")
    if not result["complete"]:
        to.line(f"incomplete: {result.get('stopped') or 'it does not say why'}", "bold red")


def _subject(subject: Result, to: Terminal) -> None:
    to.heading(subject["id"], what_ran(subject))
    _modes(subject["modes"], to)
    _stages(subject, to)
    to.facts((metric.line, metric.text(subject)) for metric in METRICS if metric.line)
    _roofline(subject.get("roofline"), to)


def _modes(modes: Result, to: Terminal) -> None:
    rows = []
    for name in (name for name in MODES if name in modes):
        mode = modes[name]
        frame, latency = mode["frame_ms"], mode.get("latency_ms")
        rows.append((f"{name} mode", *quantile_cells(frame), digits(mode["fps"])))
        if latency:
            rows.append(("  its latency", *quantile_cells(latency)))
    if rows:
        to.table(("frame time, ms", *QUANTILES, "fps"), rows)
    to.facts((f"{name} mode:", host_cost(modes[name])) for name in MODES if name in modes)


def _stages(subject: Result, to: Terminal) -> None:
    if not subject.get("stages"):
        return
    held = stages(subject)
    whole = sum(of["p50"] for of in held.values()) or 1
    most = max((of["p50"] for of in held.values()), default=1) or 1
    rows = []
    for name, of in held.items():
        figures = (digits(of["p50"]), digits(of["p99"]), share(of["p50"] / whole))
        rows.append((name, to.bar(of["p50"] / most), *figures))
    to.table(("stage, ms", "", "p50", "p99", "share"), rows, left=2)
    to.facts([("stages", accounted(subject))])


def _roofline(roofline: Result | None, to: Terminal) -> None:
    if not roofline:
        return
    rows = [
        (name, *work_cells(work), work.get("bound") or "")
        for name, work in (*roofline["graphs"].items(), ("frame", roofline.get("frame")))
        if work
    ]
    head = ("roofline", "GFLOP", "MB", "limit ms", "ms", "reached", "bound by")
    to.table(head, rows)
    to.facts([("limits", rates(roofline))])


def _live(live: Result, to: Terminal) -> None:
    how = "the time was read from the pixels that came out" if live.get("stamped") else ""
    parts = [live.get("size"), live.get("engine"), live.get("mode") and f"{live['mode']} mode"]
    to.heading(f"live {live['source']}", ", ".join(part for part in (*parts, how) if part))
    rows = [("latency", live.get("latency_ms")), ("age of the newest", live.get("age_ms"))]
    rows += [(f"  {name}", held) for name, held in (live.get("stages") or {}).items()]
    shown = [(name, *quantile_cells(held)) for name, held in rows if held]
    to.table(("ms", *QUANTILES), shown)
    to.facts([("frames", live_rates(live))])
    if tiles := live_tiles(live):
        to.facts([("picture", tiles)])


def _ratios(result: Result, to: Terminal) -> None:
    rows = [
        (f"{c['what']} / {c['to']}, {c['mode']}", *_ratio_cells(c), "")
        for c in result.get("comparisons") or ()
    ]
    for held in result.get("baselines") or ():
        frame = ms(held["frame_ms"]["p50"]) if held["frame_ms"] else NONE
        rows.append((f"{baseline_name(held)} / {held['subject']}", *_ratio_cells(held), frame))
    if rows:
        to.heading(
            "Ratios of frame times",
            "the time of the first divided by that of the second; above 1x the first is slower",
        )
        to.table(("", "ratio", "spread", "pairs", "first's p50"), rows)


def _ratio_cells(held: Result) -> tuple[str, str, str]:
    pairs = held.get("pairs")
    return times(held.get("ratio")), spread(held.get("spread")), str(pairs) if pairs else NONE


def show_comparison(comparison: Comparison, file: IO[str] | None = None) -> None:
    """Prints how B compares with A.

    Args:
        file: The file to write to; standard output if not given.
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
        _subject_change(change, to)
    to.line(f"\n{summary(comparison)}", "bold")


def summary(comparison: Comparison) -> str:
    """Returns all verdicts in one line, with why they may not be the program's."""
    verdicts = [mode.verdict for change in comparison.subjects for mode in change.modes]
    counts = ((verdicts.count(v), v) for v in (FASTER, SLOWER))
    changed = ", ".join(f"{count} {verdict}" for count, verdict in counts if count)
    within = verdicts.count(WITHIN)
    parts = [changed, f"{within} {WITHIN}" if within else ""]
    doubts = ["other machines"] if OTHER_MACHINE in comparison.differences else []
    doubts += ["noisy or incomplete"] if comparison.noisy else []
    doubt = f" ({', '.join(doubts)}: see above)" if doubts and changed else ""
    return f"B against A: {', '.join(part for part in parts if part) or 'nothing compared'}{doubt}"


def _subject_change(change: SubjectChange, to: Terminal) -> None:
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
    to.facts((f"latency in {name} mode", _change_line(latency)) for name, latency in latencies)
    _changes("changed stages", change.stages, to)
    _changes("also changed", change.other, to)


def _changes(title: str, changes: Iterable[Change], to: Terminal) -> None:
    to.facts(
        (title if number == 0 else "", f"{change.name}: {_change_line(change)}")
        for number, change in enumerate(changes)
    )


def _change_line(change: Change) -> str:
    write = {"ms": ms, "s": seconds, "MiB": megabytes}[change.unit]
    return f"{write(change.a)} -> {write(change.b)} ({times(change.ratio)})"
