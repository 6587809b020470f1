"""The table of what is measured around the frames: a new figure is a row of METRICS.

The terminal, the page and the comparison of two results show what the rows say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .wording import file_rate, megabytes, memory, ms, start_up

Result = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Compared:
    """The rules for comparing one figure of two results.

    Attributes:
        name: Its name in the comparison.
        number: subject -> the figure; None if it was not measured.
        unit: ms, s or MiB.
        least: The smallest change that is shown, as a share of the figure.
    """

    name: str
    number: Callable[[Result], float | None]
    unit: str
    least: float


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure of a subject.

    Attributes:
        text: subject -> the figure with its unit, or "" if it was not measured.
        line: Its name on the terminal; "" if it is not shown there.
        row: Its name on the page; "" if it is not shown there.
        compared: How two results are compared by it; None if they are not.
    """

    text: Callable[[Result], str]
    line: str = ""
    row: str = ""
    compared: Compared | None = None


def _start(which: str) -> Metric:
    """Returns the row of a cold or a warm start; it is a single one, and the disk has its part."""

    def parts(subject: Result) -> Result:
        return (subject.get("start_up") or {}).get(f"{which}_s") or {}

    name = f"{which} start"
    return Metric(
        lambda subject: start_up(parts(subject)) if parts(subject) else "",
        line=name,
        row=name.capitalize(),
        compared=Compared(name, lambda subject: parts(subject).get("all"), "s", 0.25),
    )


def _memory(key: str, row: str, name: str = "") -> Metric:
    """Returns the row of a kind of memory; peaks are all but the same each time."""

    def number(subject: Result) -> float | None:
        return (subject.get("memory_mb") or {}).get(key)

    return Metric(
        lambda subject: "" if (held := number(subject)) is None else megabytes(held),
        row=row,
        compared=Compared(name, number, "MiB", 0.03) if name else None,
    )


def _coded(subject: Result) -> str:
    media = subject.get("media") or {}
    coded = [f"{name} {ms(media[name]['p50'])}" for name in ("decode", "encode") if media.get(name)]
    return ", ".join(coded)


def _codec(subject: Result) -> str:
    return subject["media"].get("codec", "") if _coded(subject) else ""


def _video(subject: Result) -> str:
    return f"{_coded(subject)} a frame ({_codec(subject)})" if _coded(subject) else ""


METRICS = (
    _start("cold"),
    _start("warm"),
    Metric(lambda subject: memory(subject.get("memory_mb") or {}), line="peak memory"),
    _memory("host_peak", "Host memory, peak", "host memory"),
    _memory("device_peak", "GPU memory, peak", "GPU memory"),
    _memory("estimate", "Memory, estimated"),
    Metric(_video, line="video"),
    Metric(_coded, row="Video, a frame"),
    Metric(_codec, row="Codecs"),
    Metric(
        lambda subject: file_rate(subject.get("file_rate") or {}),
        line="whole files",
        row="Whole files",
    ),
)
