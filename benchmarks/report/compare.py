"""Two results against each other: what changed beyond the noise.

Subjects are matched by their id. A mode's verdict is on the ratio of the median frame times, B / A,
against the band of what may be chance. Stages, memory and start-up are listed where they changed,
by rules of their own.

How far the medians of two runs may be apart by chance has two sources, and the larger counts:

1. **Rounds.** What changes between rounds (clocks, temperature, other processes) is seen only by
   comparing rounds: frames of one round share it, so counting frames as independent would make the
   band far too narrow. The logarithms of the rounds' medians of both runs give a pooled standard
   deviation s; by Student's t the band is t(df) s sqrt(1/a + 1/b), df = a + b - 2. The fewer the
   rounds, the larger t: with 3 and 3 rounds 3.5, with 2 and 2 already 6.2. No bootstrap here:
   3 rounds have 10 distinct resamples, and it would understate s by a fifth.
2. **Frames.** Rounds may agree by luck. A moving-block bootstrap of all frames (Künsch 1989; blocks
   of n^(1/3), as neighbouring frames are alike) gives the band of a median of so many frames.

Neither sees what differs between processes: where memory lies, which clock it began at. So no
change below `LEAST` is called one; where one of the runs has a single round, none below `BLIND`.
Both bands are at 97.5 %: of 100 comparisons of a thing with itself about 2 differ by chance.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .metrics import METRICS
from .wording import MODES, NONE, gpu, ms, power

FASTER, SLOWER, WITHIN = "faster", "slower", "within the noise"
# There are a dozen stages, so one has to differ by three standard errors and 0.5 % of the frame.
STAGE_Z, STAGE_LEAST = 3.0, 0.005
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
    """The changes of one subject.

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
    """The answer of `bench compare`.

    Attributes:
        differences: Differences of machines, versions and settings; shown before any figure.
        noisy: Why not to trust what follows: a line for each run that was noisy or incomplete.
        only_in_a: Ids of subjects.
    """

    differences: tuple[str, ...]
    noisy: tuple[str, ...]
    only_in_a: tuple[str, ...]
    only_in_b: tuple[str, ...]
    subjects: tuple[SubjectChange, ...]

    def to_json(self) -> dict[str, Any]:
        """Returns what `--json` prints."""
        held = asdict(self)
        for subject, change in zip(held["subjects"], self.subjects, strict=True):
            for mode, of in zip(subject["modes"], change.modes, strict=True):
                mode["band"] = {"ratios": list(of.band.ratios), "why": of.band.why}
        return {"schema": "streamdiffvsr.bench-compare/1", **held}


def compare(a: Result, b: Result) -> Comparison:
    """Compares B with A; ratios are of B's times to A's, so that below 1 B is faster."""
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
    other = tuple(_around(a, b))
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
    """Yields the stages that changed by more than their own noise and the plain loop's."""
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


def _around(a: Result, b: Result) -> Iterator[Change]:
    """Yields the figures around the frames that changed by more than METRICS allows."""
    compared = [metric.compared for metric in METRICS if metric.compared]
    for held in sorted(compared, key=lambda held: held.unit):  # memory first
        change = _change(held.name, held.number(a), held.number(b), held.unit)
        if change is not None and abs(math.log(change.ratio)) > math.log1p(held.least):
            yield change


def _live(a: Result, b: Result) -> Iterator[SubjectChange]:
    """Compares the latency of the live path: there are no rounds, so 5 % at least may be chance."""
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


LASTING = ("source", "governor", "gpu_power_limit_w", "gpu_max_clock_mhz")  # clocks come and go
SAME_SPEED = 0.05  # the least change of the fixed work that matters
OTHER_MACHINE = "different machines: this is a comparison of machines"


def differences(a: Result, b: Result) -> tuple[str, ...]:
    """Returns a line for each difference of machine, versions, power, settings and task."""
    machines = list(_machine(a["machine"], b["machine"]))
    return (
        *([OTHER_MACHINE] if machines else []),
        *machines,
        *_conditions(a["machine"], b["machine"]),
        *_speed(a, b),
        *_measuring(a, b),
    )


def noisy(a: Result, b: Result) -> tuple[str, ...]:
    """Returns a line for each run that called itself noisy, and for each that ended early."""
    found = []
    for name, result in (("A", a), ("B", b)):
        noise = result.get("noise") or {}
        if noise.get("noisy"):
            found.append(f"{name} was noisy: {'; '.join(noise['why']) or 'it does not say why'}")
        if not result["complete"]:
            found.append(f"{name} is incomplete: {result.get('stopped') or 'it does not say why'}")
    return tuple(found)


def _machine(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[str]:
    if a["cpu"] != b["cpu"] or a["cores"] != b["cores"]:
        yield _line("processor", *(f"{m['cpu']}, {m['cores']} cores" for m in (a, b)))
    cards = [(m["gpu"] or {}).get("name") for m in (a, b)]
    if cards[0] != cards[1]:
        yield _line("GPU", gpu(a), gpu(b))


def _conditions(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[str]:
    drivers = [str((m["gpu"] or {}).get("driver") or "none") for m in (a, b)]
    if None not in (a["gpu"], b["gpu"]) and drivers[0] != drivers[1]:
        yield _line("driver", *drivers)
    for name in ("system", "python"):
        if a[name] != b[name]:
            yield _line(name, a[name], b[name])
    for name in sorted({*a["versions"], *b["versions"]}):
        numbers = [m["versions"].get(name, "none") for m in (a, b)]
        if numbers[0] != numbers[1]:
            yield _line(name, *numbers)
    held = [{name: (m.get("power") or {}).get(name) for name in LASTING} for m in (a, b)]
    if held[0] != held[1]:
        yield _line("power", power(a), power(b))


def _speed(a: Result, b: Result) -> Iterator[str]:
    """Yields a line where the same fixed work took longer in one run: so may all else have."""
    one, other = ((result.get("noise") or {}).get("probe_ms") for result in (a, b))
    if one and other and abs(other / one - 1) > SAME_SPEED:
        yield _line("a fixed piece of work took", ms(one), ms(other))


def _measuring(a: Result, b: Result) -> Iterator[str]:
    if a["timed"] != b["timed"]:
        yield _line("what was timed", a["timed"], b["timed"])
    settings = [result.get("settings") or {} for result in (a, b)]
    for name in sorted({*settings[0], *settings[1]}):
        values = [str(held.get(name, NONE)) for held in settings]
        if values[0] != values[1]:
            yield _line(name.replace("_", "-"), *values)


def _line(what: str, a: str, b: str) -> str:
    return f"{what}: {a} -> {b}"


LEAST = 0.01
BLIND = 0.05
RESAMPLES = 1000
CONFIDENCE = 0.975
# Two-sided 97.5 % quantiles of Student's t by degrees of freedom; from the normal beyond.
STUDENT = (25.45, 6.205, 4.177, 3.495, 3.163, 2.969, 2.841, 2.752, 2.685, 2.634, 2.593, 2.560)
NORMAL = 2.241


@dataclass(frozen=True, slots=True)
class Band:
    """The range of ratios that may be chance.

    Attributes:
        log_width: Half the band's width as a difference of logarithms.
        why: The reason for its width.
    """

    log_width: float
    why: str

    @property
    def ratios(self) -> tuple[float, float]:
        """The ratios between which nothing is called a change."""
        return math.exp(-self.log_width), math.exp(self.log_width)

    def holds(self, ratio: float) -> bool:
        """Returns whether a ratio may be chance."""
        return abs(math.log(ratio)) <= self.log_width


def band(a: Mapping[str, Any], b: Mapping[str, Any]) -> Band:
    """Returns the band of the ratio of the medians of two modes (MODE of the result's schema)."""
    rounds = [_positive(mode.get("rounds_p50")) for mode in (a, b)]
    frames = [_positive(mode.get("samples_ms")) for mode in (a, b)]
    found = [Band(LEAST, "no change below 1 % is called one")]
    if min(len(held) for held in rounds) < 2:
        found.append(Band(BLIND, "one round: how rounds differ is not known, 5 % assumed"))
    else:
        counts = " and ".join(str(len(held)) for held in rounds)
        found.append(Band(_of_rounds(*rounds), f"spread of {counts} rounds"))
    if min(len(held) for held in frames) >= 2:
        counts = " and ".join(str(len(held)) for held in frames)
        found.append(Band(_of_frames(*frames), f"spread of {counts} frames"))
    return max(found, key=lambda band: band.log_width)


def student(degrees: int) -> float:
    """Returns the two-sided 97.5 % quantile of Student's t."""
    return STUDENT[degrees - 1] if degrees <= len(STUDENT) else NORMAL * (1 + 1.6 / degrees)


def of_quantiles(a: Mapping[str, float], b: Mapping[str, float], z: float) -> float:
    """Returns the band of medians of which only quantiles are known, as a difference of logarithms.

    The standard error of a median is 1.2533 sigma / sqrt(n); sigma is from p50 and p90, which late
    frames do not move.

    Args:
        z: Standard errors to allow for.
    """
    squares = 0.0
    for held in (a, b):
        sigma = (held["p90"] - held["p50"]) / 1.2816 / held["p50"]
        squares += (1.2533 * sigma) ** 2 / held["n"]
    return z * math.sqrt(squares)


def _positive(values: Sequence[float] | None) -> np.ndarray:
    held = np.asarray(values or (), dtype=float)
    return held[held > 0]


def _of_rounds(a: np.ndarray, b: np.ndarray) -> float:
    degrees = len(a) + len(b) - 2
    squares = sum(float(((np.log(held) - np.log(held).mean()) ** 2).sum()) for held in (a, b))
    deviation = math.sqrt(squares / degrees)
    return student(degrees) * deviation * math.sqrt(1 / len(a) + 1 / len(b))


def _of_frames(a: np.ndarray, b: np.ndarray) -> float:
    rng = np.random.default_rng(0)  # the same verdict each time
    drawn = [np.log(_medians(held, rng)) for held in (a, b)]
    apart = (drawn[1] - drawn[1].mean()) - (drawn[0] - drawn[0].mean())
    return float(np.quantile(np.abs(apart), CONFIDENCE))


def _medians(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns medians (RESAMPLES,) of resampled frames, drawn in blocks of neighbours."""
    count = len(frames)
    length = max(1, round(count ** (1 / 3)))
    starts = rng.integers(0, count - length + 1, (RESAMPLES, math.ceil(count / length)))
    places = (starts[..., None] + np.arange(length)).reshape(RESAMPLES, -1)[:, :count]
    medians: np.ndarray = np.median(frames[places], axis=1)
    return medians
