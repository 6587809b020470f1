"""Writes figures as text: with three digits, units, and `-` for unknown ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

NONE = "-"
MODES = ("plain", "throughput", "latency")
QUANTILES = ("p50", "p90", "p95", "p99", "max")

Result = Mapping[str, Any]


def digits(value: float | None) -> str:
    """Returns three significant digits, all of a whole number: 1234, 123, 12.3, 1.23, 0.0123."""
    if value is None:
        return NONE
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:.0f}"
    rounded = float(f"{value:.3g}")  # 9.996 becomes 10.0, which needs one decimal less
    places = 2 - math.floor(math.log10(abs(rounded)))
    return f"{rounded:.{min(max(places, 0), 6)}f}"


def ms(value: float | None) -> str:
    """Returns a time with its unit, given in milliseconds."""
    if value is None:
        return NONE
    return f"{digits(value / 1000)} s" if value >= 10_000 else f"{digits(value)} ms"


def seconds(value: float | None) -> str:
    """Returns a time with its unit, given in seconds."""
    return NONE if value is None else f"{digits(value)} s"


def rate(gflops: float | None) -> str:
    """Returns a rate with its unit, given in GFLOP/s."""
    if gflops is None:
        return NONE
    return f"{digits(gflops / 1e3)} TFLOP/s" if gflops >= 1e4 else f"{digits(gflops)} GFLOP/s"


def megabytes(value: float | None) -> str:
    """Returns memory with its unit, given in MiB."""
    if value is None:
        return NONE
    return f"{digits(value / 1024)} GiB" if value >= 1024 else f"{value:.0f} MiB"


def times(ratio: float | None) -> str:
    """Returns a ratio, such as 2.31x."""
    return NONE if ratio is None else f"{digits(ratio)}x"


def share(value: float | None) -> str:
    """Returns a share of one as per cent."""
    if value is None:
        return NONE
    return f"{100 * value:.0f} %" if value >= 0.0995 or value == 0 else f"{100 * value:.1f} %"


def spread(values: Sequence[float] | None) -> str:
    """Returns the smallest and the largest, such as 2.24 to 2.39."""
    return NONE if not values else f"{digits(values[0])} to {digits(values[1])}"


def quantile_cells(held: Result) -> list[str]:
    """Returns the figures of a row of a table: one for each of `QUANTILES`."""
    return [digits(held[quantile]) for quantile in QUANTILES]


def work_cells(work: Result) -> list[str]:
    """Returns GFLOP, MB, limit and measured time in ms, and the share of the limit reached."""
    return [
        digits(work["gflop"]),
        digits(1e3 * work["gbyte"]),
        digits(work.get("limit_ms")),
        digits(work.get("measured_ms")),
        share(work.get("share")),
    ]


def load_average(machine: Result) -> str:
    """Returns the load averages in one line; empty where the system has none."""
    return " ".join(f"{value:.2f}" for value in machine.get("load_average") or ())


def versions(machine: Result) -> str:
    """Returns all versions in one line."""
    return ", ".join(f"{name} {number}" for name, number in machine["versions"].items())


def gpu(machine: Result) -> str:
    """Returns the GPU in one line, with its driver."""
    card = machine["gpu"]
    if card is None:
        return "none"
    parts = [str(card["name"])]
    if card.get("compute_capability"):
        parts.append(f"compute capability {card['compute_capability']}")
    if card.get("memory"):
        parts.append(str(card["memory"]))
    if card.get("driver"):
        parts.append(f"driver {card['driver']}")
    return ", ".join(parts)


def power(machine: Result) -> str:
    """Returns what is known of power and clocks, in one line."""
    known = {name: value for name, value in (machine.get("power") or {}).items() if value}
    sources = {"ac": "on mains", "battery": "on battery"}
    parts = [sources[source]] if (source := known.pop("source", None)) in sources else []
    labels = {"governor": "governor {}", "gpu_clock_mhz": "GPU clock {} MHz"}
    labels["gpu_power_limit_w"] = "GPU power limit {} W"
    plain = "{}: {}"
    parts += [
        labels[name].format(value) if name in labels else plain.format(name, value)
        for name, value in known.items()
    ]
    return ", ".join(parts) or "not known"


def settings(result: Result) -> str:
    """Returns the numbers of frames and rounds and the seed, in one line."""
    given = result.get("settings") or {}
    words = (("frames", "frames"), ("rounds", "rounds"), ("warm_up", "warm-up frames"))
    parts = [f"{given[name]} {word}" for name, word in words if given.get(name) is not None]
    if given.get("seed") is not None:
        parts.append(f"seed {given['seed']}")
    return ", ".join(parts)


def file_rate(held: Result) -> str:
    """Returns what whole files leave of the engines' rate; empty where it is not known."""
    if not held:
        return ""
    return (
        f"{digits(held['fps'])} fps of the engines' {digits(held['engine_fps'])} "
        f"(median of pairs {100 * held['share']:.1f} %), {held['frames']} frames"
    )


def start_up(parts: Result) -> str:
    """Returns a start in one line: 3.12 s (import 0.9, open 1.8, first frame 0.4)."""
    names = ("import", "open", "first_frame")
    inner = [f"{n.replace('_', ' ')} {digits(parts[n])}" for n in names if parts.get(n) is not None]
    return seconds(parts["all"]) + (f" ({', '.join(inner)})" if inner else "")


def memory(held: Result) -> str:
    """Returns the peak memory in one line."""
    labels = (("host_peak", "host"), ("device_peak", "GPU"), ("estimate", "estimated"))
    return ", ".join(
        f"{label} {megabytes(held[name])}" for name, label in labels if held.get(name) is not None
    )


def what_ran(subject: Result) -> str:
    """Returns a subject in one line, without its id."""
    parts = [f"model {subject['model']}", f"{subject['input']} to {subject['output']}"]
    parts += [f"{subject['backend']} on {subject['device']}", subject["precision"]]
    parts.append(f"{subject['steps']} steps")
    if (scale := subject.get("flow_scale") or 1) > 1:
        parts.append(f"flow at 1/{scale}")
    if subject.get("tile"):
        parts.append(f"tiles of {subject['tile']}")
    return ", ".join(parts)


def noise(result: Result) -> str:
    """Returns what the run measured of its own noise, in one line; empty if nothing."""
    held = result.get("noise") or {}
    parts = (
        ("rounds' medians within {}", held.get("p50_spread")),
        ("other processes had {} of the cores", held.get("others_cpu")),
        ("fixed work within {}", held.get("probe_spread")),
    )
    return ", ".join(text.format(share(value)) for text, value in parts if value is not None)


def stages(subject: Result) -> dict[str, Result]:
    """Returns the quantiles of each stage, in the order in which they run."""
    held = subject["stages"]
    return {name: held["ms"][name] for name in held["order"] if name in held["ms"]}


def accounted(subject: Result) -> str:
    """Returns how much of a frame its stages explain, and what timing them costs."""
    stages, cost = subject.get("stages") or {}, subject.get("stage_timing_overhead")
    parts = []
    if stages.get("accounted") is not None:
        whole = f" of {ms(stages['frame_p50'])}" if stages.get("frame_p50") else ""
        total = f"{ms(stages['sum_p50'])}{whole}, " if stages.get("sum_p50") else ""
        parts.append(f"sum {total}{100 * stages['accounted']:.1f} %")
    if cost:
        pairs = f"{spread(cost['spread'])} of {cost['pairs']} pairs"
        parts.append(f"timing them: {cost['ratio']:.3f}x ({pairs})")
    return "; ".join(parts)


def rates(roofline: Result) -> str:
    """Returns the rates of a roofline, in one line."""
    held = roofline["rates"]
    how = "measured" if roofline["measured"] else "not measured here"
    made = f": {held['how']}" if held.get("how") else ""
    precision = f" {held['precision']}" if held.get("precision") else ""
    both = f"{rate(held['gflops'])}{precision}, {digits(held['copy_gbps'])} GB/s"
    return f"{both} ({how}{made})"


def live_rates(live: Result) -> str:
    """Returns the rates of frames in and out and how many were dropped, in one line."""
    parts = [
        f"{digits(live[key])} {word}"
        for key, word in (("fps_in", "fps in"), ("fps_out", "fps out"), ("dropped", "dropped"))
        if live.get(key) is not None
    ]
    length = f" in {seconds(live['seconds'])}" if live.get("seconds") else ""
    return ", ".join(parts) + length


SHARES = (("fresh", "model"), ("carried", "carried"), ("bicubic", "bicubic"))


def live_tiles(live: Result) -> str:
    """Returns how much of adaptive frames the model made, in one line; "" of whole frames."""
    if not (found := live.get("adaptive")):
        return ""
    shares = ", ".join(f"{100 * found[key]:.0f} % {word}" for key, word in SHARES)
    rate, of = found["tiles_per_s"], found["tile_count"]
    return f"{shares}; {digits(rate)} tiles of {of} a second"


def baseline_name(baseline: Result) -> str:
    """Returns the name of a baseline; of a command it is the command."""
    if baseline["id"] == "command":
        return str(baseline.get("describe") or "command")
    return {"reference": "eager reference", "bicubic": "bicubic"}[baseline["id"]]


def host_cost(mode: Result) -> str:
    """Returns what a frame costs the caller; empty where it is not known."""
    parts = []
    if mode.get("host_ms"):
        parts.append(f"host {ms(mode['host_ms']['p50'])} a frame")
    if mode.get("launches") is not None:
        parts.append(f"{mode['launches']} launches a frame")
    for part, why in (mode.get("not_captured") or {}).items():
        parts.append(f"{part} is not captured: {why}")
    return ", ".join(parts)
