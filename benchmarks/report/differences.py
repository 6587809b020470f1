"""What else differs between two results, before any figure is compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .wording import NONE, gpu, ms, power

Result = Mapping[str, Any]
LASTING = ("source", "governor", "gpu_power_limit_w", "gpu_max_clock_mhz")  # clocks come and go
SAME_SPEED = 0.05  # of the fixed work of two runs on one quiet machine
OTHER_MACHINE = "different machines: this is a comparison of machines"


def differences(a: Result, b: Result) -> tuple[str, ...]:
    """One line for each difference of machine, versions, power, settings and what was timed."""
    machines = list(_machine(a["machine"], b["machine"]))
    return (
        *([OTHER_MACHINE] if machines else []),
        *machines,
        *_conditions(a["machine"], b["machine"]),
        *_speed(a, b),
        *_measuring(a, b),
    )


def noisy(a: Result, b: Result) -> tuple[str, ...]:
    """One line for each run that called itself noisy, and for each that ended early."""
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
    """The same fixed work took longer in one: so may everything else have."""
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
