"""What the terminal shows of a result: first what was timed and on what, then the figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO, Any

from .terminal import Terminal
from .wording import (
    MODES,
    NONE,
    QUANTILES,
    digits,
    file_rate,
    gpu,
    memory,
    ms,
    power,
    rate,
    seconds,
    settings,
    share,
    spread,
    start_up,
    times,
    versions,
    what_ran,
)

Result = Mapping[str, Any]


def show_result(result: Result, file: IO[str] | None = None) -> None:
    """Print a result (see `benchmarks/result_schema.json`) for a person.

    Args:
        file: Where to; standard output if not given.
    """
    to = Terminal(file)
    _conditions(result, to)
    for subject in result["subjects"]:
        _subject(subject, to)
    if result.get("live"):
        _live(result["live"], to)
    _ratios(result, to)
    _warnings(result, to)  # again: what scrolls away is not read


def _conditions(result: Result, to: Terminal) -> None:
    machine = result["machine"]
    _warnings(result, to)
    to.line(f"timed: {result['timed']}")
    load = machine.get("load_average")
    facts = [
        ("processor", f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}"),
        ("GPU", gpu(machine)),
        ("power", power(machine)),
        ("load average", " ".join(f"{value:.2f}" for value in load) if load else ""),
        ("versions", f"{versions(machine)}, Python {machine['python']}"),
        ("measured", ", ".join(part for part in (result["created"], settings(result)) if part)),
        ("noise", noise(result)),
    ]
    to.facts(facts)


def noise(result: Result) -> str:
    """What the run measured of its own noise, in one line; empty if nothing."""
    held = result.get("noise") or {}
    parts = (
        ("rounds' medians within {}", held.get("p50_spread")),
        ("other processes had {} of the cores", held.get("others_cpu")),
        ("fixed work within {}", held.get("probe_spread")),
    )
    return ", ".join(text.format(share(value)) for text, value in parts if value is not None)


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
    to.facts(_facts(subject))
    _roofline(subject.get("roofline"), to)


def _modes(modes: Result, to: Terminal) -> None:
    rows = []
    for name in (name for name in MODES if name in modes):
        mode = modes[name]
        frame, latency = mode["frame_ms"], mode.get("latency_ms")
        rows.append((name, *(digits(frame[q]) for q in QUANTILES), digits(mode["fps"])))
        if latency:
            rows.append(("  latency", *(digits(latency[q]) for q in QUANTILES)))
    if rows:
        to.table(("frame time, ms", *QUANTILES, "fps"), rows)
    to.facts((f"{name}:", _host(modes[name])) for name in MODES if name in modes)


def _host(mode: Result) -> str:
    """What a frame costs the caller, where it is known."""
    parts = []
    if mode.get("host_ms"):
        parts.append(f"host {ms(mode['host_ms']['p50'])} a frame")
    if mode.get("launches") is not None:
        parts.append(f"{mode['launches']} launches a frame")
    for part, why in (mode.get("not_captured") or {}).items():
        parts.append(f"{part} is not captured: {why}")
    return ", ".join(parts)


def _stages(subject: Result, to: Terminal) -> None:
    stages = subject.get("stages")
    if not stages:
        return
    held = [(name, stages["ms"][name]) for name in stages["order"] if name in stages["ms"]]
    whole = sum(of["p50"] for _, of in held) or 1
    most = max((of["p50"] for _, of in held), default=1) or 1
    rows = [
        (
            name,
            to.bar(of["p50"] / most),
            digits(of["p50"]),
            digits(of["p99"]),
            share(of["p50"] / whole),
        )
        for name, of in held
    ]
    to.table(("stage, ms", "", "p50", "p99", "share"), rows, left=2)
    to.facts([("stages", accounted(subject))])


def accounted(subject: Result) -> str:
    """How much of a frame the stages explain, and what timing them costs, in one line."""
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


def _facts(subject: Result) -> list[tuple[str, str]]:
    start, media = subject.get("start_up") or {}, subject.get("media") or {}
    coded = [f"{name} {ms(media[name]['p50'])}" for name in ("decode", "encode") if media.get(name)]
    return [
        ("cold start", start_up(start["cold_s"]) if start.get("cold_s") else ""),
        ("warm start", start_up(start["warm_s"]) if start.get("warm_s") else ""),
        ("peak memory", memory(subject.get("memory_mb") or {})),
        ("video", f"{', '.join(coded)} a frame ({media.get('codec', '')})" if coded else ""),
        ("whole files", file_rate(subject.get("file_rate") or {})),
    ]


def _roofline(roofline: Result | None, to: Terminal) -> None:
    if not roofline:
        return
    rows = [
        (
            name,
            digits(work["gflop"]),
            digits(1000 * work["gbyte"]),
            digits(work.get("limit_ms")),
            digits(work.get("measured_ms")),
            share(work.get("share")),
            work.get("bound") or "",
        )
        for name, work in (*roofline["graphs"].items(), ("frame", roofline.get("frame")))
        if work
    ]
    head = ("roofline", "GFLOP", "MB", "limit ms", "ms", "reached", "bound by")
    to.table(head, rows)
    to.facts([("limits", rates(roofline))])


def rates(roofline: Result) -> str:
    """The rates behind a roofline, in one line."""
    held = roofline["rates"]
    how = "measured" if roofline["measured"] else "not measured here"
    made = f": {held['how']}" if held.get("how") else ""
    precision = f" {held['precision']}" if held.get("precision") else ""
    both = f"{rate(held['gflops'])}{precision}, {digits(held['copy_gbps'])} GB/s"
    return f"{both} ({how}{made})"


def _live(live: Result, to: Terminal) -> None:
    how = "the time was read from the pixels that came out" if live.get("stamped") else ""
    parts = [live.get("size"), live.get("engine"), live.get("mode") and f"{live['mode']} mode"]
    to.heading(f"live {live['source']}", ", ".join(part for part in (*parts, how) if part))
    rows = [("latency", live.get("latency_ms")), ("age of the newest", live.get("age_ms"))]
    rows += [(f"  {name}", held) for name, held in (live.get("stages") or {}).items()]
    shown = [(name, *(digits(held[q]) for q in QUANTILES)) for name, held in rows if held]
    to.table(("ms", *QUANTILES), shown)
    to.facts([("frames", live_rates(live))])


def live_rates(live: Result) -> str:
    """Frames in, out and dropped, in one line."""
    parts = [
        f"{digits(live[key])} {word}"
        for key, word in (("fps_in", "fps in"), ("fps_out", "fps out"), ("dropped", "dropped"))
        if live.get(key) is not None
    ]
    length = f" in {seconds(live['seconds'])}" if live.get("seconds") else ""
    return ", ".join(parts) + length


def _ratios(result: Result, to: Terminal) -> None:
    rows = [
        (f"{c['what']} / {c['to']}, {c['mode']}", *_ratio(c), "")
        for c in result.get("comparisons") or ()
    ]
    for held in result.get("baselines") or ():
        frame = ms(held["frame_ms"]["p50"]) if held["frame_ms"] else NONE
        rows.append((f"{baseline_name(held)} / {held['subject']}", *_ratio(held), frame))
    if rows:
        to.heading("Ratios of frame times", "above 1x: the first is slower")
        to.table(("", "ratio", "spread", "pairs", "first's p50"), rows)


def _ratio(held: Result) -> tuple[str, str, str]:
    pairs = held.get("pairs")
    return times(held.get("ratio")), spread(held.get("spread")), str(pairs) if pairs else NONE


def baseline_name(baseline: Result) -> str:
    """What a baseline is called, and for a command the command."""
    if baseline["id"] == "command":
        return str(baseline.get("describe") or "command")
    return {"reference": "eager reference", "bicubic": "bicubic"}[baseline["id"]]
