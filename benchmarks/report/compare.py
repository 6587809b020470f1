"""Two results against each other: what changed beyond the noise.

Subjects are matched by their id. A mode's verdict is on the ratio of the median frame times, B / A,
against the band that `noise_band` gives. All else (stages, memory, start-up) is told where it
changed, by the rules beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .differences import differences, noisy
from .noise_band import BLIND, NORMAL, Band, band, of_quantiles
from .wording import MODES

FASTER, SLOWER, WITHIN = "faster", "slower", "within the noise"
# A stage is one of a dozen, so it takes three standard errors, and half a per cent of the frame.
STAGE_Z, STAGE_LEAST = 3.0, 0.005
# Memory is all but the same each time; a start is a single one, and the disk's cache has its part.
MEMORY_LEAST, START_LEAST = 0.03, 0.25
LIVE = "live latency"

Result = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Change:
    """One figure of both runs.

    Attributes:
        unit: ms, s or MiB.
        ratio: b / a.
    """

    name: str
    a: float
    b: float
    unit: str
    ratio: float


@dataclass(frozen=True, slots=True)
class ModeChange:
    """The median frame time of a mode.

    Attributes:
        verdict: "faster", "slower" or "within the noise", of B.
        latency: Its median latency, which has no verdict of its own; None where not in both.
    """

    name: str
    a_ms: float
    b_ms: float
    ratio: float
    band: Band
    verdict: str
    latency: Change | None


@dataclass(frozen=True, slots=True)
class SubjectChange:
    """What changed of one subject.

    Attributes:
        modes: All that both runs have.
        stages: Those that changed beyond the noise.
        other: Memory and start-up, where they changed.
    """

    id: str
    modes: tuple[ModeChange, ...]
    stages: tuple[Change, ...] = ()
    other: tuple[Change, ...] = ()


@dataclass(frozen=True, slots=True)
class Comparison:
    """What `bench compare` says.

    Attributes:
        differences: Of machines, versions and settings; to be told before any figure.
        noisy: Why not to trust what follows: a line for each run that was noisy or incomplete.
        only_in_a: Ids of subjects.
    """

    differences: tuple[str, ...]
    noisy: tuple[str, ...]
    only_in_a: tuple[str, ...]
    only_in_b: tuple[str, ...]
    subjects: tuple[SubjectChange, ...]

    def to_json(self) -> dict[str, Any]:
        """What `--json` prints."""
        held = asdict(self)
        for subject, change in zip(held["subjects"], self.subjects, strict=True):
            for mode, of in zip(subject["modes"], change.modes, strict=True):
                mode["band"] = {"ratios": list(of.band.ratios), "why": of.band.why}
        return {"schema": "streamdiffvsr.bench-compare/1", **held}


def compare(a: Result, b: Result) -> Comparison:
    """B against A; ratios are of B's times to A's, so that below 1 B is faster."""
    ours, theirs = ({subject["id"]: subject for subject in held["subjects"]} for held in (a, b))
    subjects = [_subject(ours[name], theirs[name]) for name in ours if name in theirs]
    if a.get("live") and b.get("live"):
        subjects += _live(a["live"], b["live"])
    return Comparison(
        differences(a, b),
        noisy(a, b),
        tuple(name for name in ours if name not in theirs),
        tuple(name for name in theirs if name not in ours),
        tuple(subjects),
    )


def _subject(a: Result, b: Result) -> SubjectChange:
    modes = tuple(
        _mode(name, a["modes"][name], b["modes"][name])
        for name in MODES
        if name in a["modes"] and name in b["modes"]
    )
    other = (*_memory(a, b), *_start_up(a, b))
    return SubjectChange(a["id"], modes, tuple(_stages(a, b, modes)), other)


def _mode(name: str, a: Result, b: Result) -> ModeChange:
    before, after = a["frame_ms"]["p50"], b["frame_ms"]["p50"]
    chance, ratio = band(a, b), after / before
    latency = None
    if a.get("latency_ms") and b.get("latency_ms"):
        latency = _change("latency", a["latency_ms"]["p50"], b["latency_ms"]["p50"], "ms")
    return ModeChange(name, before, after, ratio, chance, _verdict(ratio, chance), latency)


def _verdict(ratio: float, chance: Band) -> str:
    if chance.holds(ratio):
        return WITHIN
    return FASTER if ratio < 1 else SLOWER


def _stages(a: Result, b: Result, modes: tuple[ModeChange, ...]) -> Iterator[Change]:
    """Stages that changed by more than their own noise and the plain loop's."""
    if not (a.get("stages") and b.get("stages")):
        return
    plain = next((mode for mode in modes if mode.name == "plain"), None)
    of_frame = plain.band.log_width if plain else BLIND
    ours, theirs = a["stages"]["ms"], b["stages"]["ms"]
    frame = sum(held["p50"] for held in ours.values())
    for name in a["stages"]["order"]:
        if name not in ours or name not in theirs:
            continue
        change = _change(name, ours[name]["p50"], theirs[name]["p50"], "ms")
        if change is None or abs(change.b - change.a) < STAGE_LEAST * frame:
            continue
        width = math.hypot(of_frame, of_quantiles(ours[name], theirs[name], STAGE_Z))
        if abs(math.log(change.ratio)) > width:
            yield change


def _memory(a: Result, b: Result) -> Iterator[Change]:
    names = {"host_peak": "host memory", "device_peak": "GPU memory"}
    yield from _beyond(a.get("memory_mb"), b.get("memory_mb"), names, "MiB", MEMORY_LEAST)


def _start_up(a: Result, b: Result) -> Iterator[Change]:
    for which in ("cold", "warm"):
        before, after = ((held.get("start_up") or {}).get(f"{which}_s") for held in (a, b))
        yield from _beyond(before, after, {"all": f"{which} start"}, "s", START_LEAST)


def _beyond(
    a: Result | None, b: Result | None, names: Mapping[str, str], unit: str, least: float
) -> Iterator[Change]:
    """The named figures whose ratio is further from 1 than `least`."""
    for key, name in names.items():
        change = _change(name, (a or {}).get(key), (b or {}).get(key), unit)
        if change is not None and abs(math.log(change.ratio)) > math.log1p(least):
            yield change


def _live(a: Result, b: Result) -> Iterator[SubjectChange]:
    """The latency of the live path: there are no rounds, so 5 % at least may be chance."""
    ours, theirs = a.get("latency_ms"), b.get("latency_ms")
    if not (ours and theirs):
        return
    width = max(BLIND, of_quantiles(ours, theirs, NORMAL))
    chance = Band(width, "one run each: how runs differ is not known, 5 % assumed")
    ratio = theirs["p50"] / ours["p50"]
    verdict = _verdict(ratio, chance)
    change = ModeChange(LIVE, ours["p50"], theirs["p50"], ratio, chance, verdict, None)
    yield SubjectChange(f"live {a['source']}", (change,))


def _change(name: str, a: float | None, b: float | None, unit: str) -> Change | None:
    return Change(name, a, b, unit, b / a) if a and b else None
