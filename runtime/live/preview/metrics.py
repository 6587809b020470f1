"""Exports a live session's status, and histograms of its frames, as Prometheus text.

Labels are closed sets (stages, rungs, causes of a reset, numbers of sinks, names of cameras), never
an address, so no credential can get into a time series, and reconnections add no series.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from ..frame import OutputFrame

CONTENT_TYPE = CONTENT_TYPE_LATEST
_PREFIX = "streamdiffvsr_"
_SECONDS = (0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2, 5)

RUNNING = ("exact", "adaptive", "bicubic")
SHARES = ("fresh", "carried", "bicubic")
# Name, path in the status, help. A value that is missing or null is left out.
_COUNTERS = (
    ("source_frames", "source.received", "Frames that the source gave"),
    ("source_dropped", "source.dropped", "Frames that the source dropped for newer ones"),
    ("source_damaged", "source.damaged", "Frames that were damaged"),
    ("source_reconnects", "source.reconnects", "Times the source was opened again"),
    ("dropped", "dropped", "Frames that were never upscaled"),
    ("passed_through", "passed_through", "Frames that were enlarged without the model"),
)
_GAUGES = (
    ("uptime_seconds", "uptime_s", "Since the session began"),
    ("fps_in", "fps_in", "Frames a second from the source"),
    ("fps_out", "fps_out", "Frames a second to the sinks"),
    ("latency_p50_milliseconds", "latency_ms.p50", "Median latency of the recent frames"),
    ("latency_p95_milliseconds", "latency_ms.p95", "95th percentile of the recent frames"),
    ("engine_stuck_seconds", "stuck_s", "For how long an overdue frame has been with the engines"),
    ("adaptive_tiles_per_frame", "adaptive.tiles_per_frame", "Tiles that were refined, per frame"),
    ("adaptive_tiles_per_second", "adaptive.tiles_per_s", "Tiles that were refined, per second"),
    ("adaptive_tile_milliseconds", "adaptive.tile_ms", "Time of a tile"),
    ("adaptive_tile_count", "adaptive.tile_count", "Tiles that refine a whole frame"),
    ("adaptive_oldest_seconds", "adaptive.oldest_s", "Age of the oldest part of the picture"),
    ("memory_megabytes", "memory_mb", "Memory of the session's processes"),
    ("gpu_memory_megabytes", "gpu.memory_mb", "Memory in use on the GPU"),
)


_OF_PROCESS = {f"{_PREFIX}{name}" for name in ("memory_megabytes", "gpu_memory_megabytes")}


class Metrics:
    """The numbers of one session, in a registry of their own.

    Args:
        status: Returns the session's status, as ``live/status.py`` describes it.
    """

    def __init__(self, status: Callable[[], Mapping[str, Any]]) -> None:
        self._registry = CollectorRegistry()
        self._latency = Histogram(
            _PREFIX + "latency_seconds",
            "From the decoder's hand-over to that to the sinks",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._stage = Histogram(
            _PREFIX + "stage_seconds",
            "Time of a stage of the engine",
            ["stage"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._registry.register(_StatusCollector(status))

    def observe(self, frame: OutputFrame) -> None:
        """Counts one output frame; takes microseconds, from any thread."""
        self._latency.observe(frame.latency_ms / 1000)
        for stage, milliseconds in frame.stage_ms.items():
            self._stage.labels(stage).observe(milliseconds / 1000)

    def text(self) -> bytes:
        """Returns all metrics, as text of the type :data:`CONTENT_TYPE`."""
        return generate_latest(self._registry)

    def collect(self) -> Iterable[Metric]:
        """Returns all metrics."""
        return self._registry.collect()


def text_of_all(cameras: Mapping[str, Metrics], more: Iterable[Metric] = ()) -> bytes:
    """Returns the metrics of many cameras as text, with the label `camera`, and further ones.

    Those of the whole process are in it once, without that label.
    """
    families: dict[str, Metric] = {}
    for name, metrics in cameras.items():
        for family in metrics.collect():
            new = Metric(family.name, family.documentation, family.type)
            kept = families.setdefault(family.name, new)
            of_process = family.name in _OF_PROCESS
            if not (of_process and kept.samples):
                label = {} if of_process else {"camera": name}
                kept.samples += [
                    sample._replace(labels={**label, **sample.labels}) for sample in family.samples
                ]
    registry = CollectorRegistry()
    registry.register(_Listed([*families.values(), *more]))
    return generate_latest(registry)


class _Listed(Collector):
    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


class _StatusCollector(Collector):
    def __init__(self, status: Callable[[], Mapping[str, Any]]) -> None:
        self._status = status

    def describe(self) -> list[Metric]:
        """Returns nothing, or the registry would ask for a status before the session has one."""
        return []

    def collect(self) -> Iterator[Metric]:
        status = self._status()
        if (state := status.get("state")) != "paused":  # for an alert that would be no reason
            playing = float(state == "playing")
            yield GaugeMetricFamily(_PREFIX + "up", "1 while frames come and go", value=playing)
        for name, path, text in _COUNTERS:
            if (value := _at(status, path)) is not None:
                yield CounterMetricFamily(_PREFIX + name, text, value=value)
        for name, path, text in _GAUGES:
            if (value := _at(status, path)) is not None:
                yield GaugeMetricFamily(_PREFIX + name, text, value=value)
        yield _resets(status)
        yield _rungs(status)
        yield _running(status)
        yield _shares(status)
        yield from _sinks(status)


def _resets(status: Mapping[str, Any]) -> Metric:
    family = CounterMetricFamily(_PREFIX + "resets", "State resets", labels=["cause"])
    for cause, count in (status.get("resets") or {}).items():
        family.add_metric([cause], count)
    return family


def _rungs(status: Mapping[str, Any]) -> Metric:
    family = GaugeMetricFamily(_PREFIX + "rung", "1 for the rung in use", labels=["rung"])
    for rung in status.get("rungs") or ():
        family.add_metric([rung], float(rung == status.get("rung")))
    return family


def _running(status: Mapping[str, Any]) -> Metric:
    family = GaugeMetricFamily(_PREFIX + "running", "1 for the mode in use", labels=["mode"])
    for mode in RUNNING:
        family.add_metric([mode], float(mode == status.get("running")))
    return family


def _shares(status: Mapping[str, Any]) -> Metric:
    family = GaugeMetricFamily(
        _PREFIX + "adaptive_picture_ratio", "Share of the picture, by what it is", labels=["part"]
    )
    for part in SHARES:
        if (value := _at(status, f"adaptive.{part}")) is not None:
            family.add_metric([part], value)
    return family


def _sinks(status: Mapping[str, Any]) -> Iterator[Metric]:
    sinks = status.get("sinks") or ()
    for key, text in (
        ("written", "Frames that a sink took to its end"),
        ("dropped", "Frames that a sink could not take"),
        ("reopened", "Times a sink was opened again"),
        ("sound_written", "Packets of sound that a sink has written"),
        ("sound_dropped", "Packets of sound that a sink could not take"),
    ):
        family = CounterMetricFamily(_PREFIX + "sink_" + key, text, labels=["sink"])
        for number, sink in enumerate(sinks):
            family.add_metric([str(number)], sink.get(key) or 0)
        yield family
    up = GaugeMetricFamily(_PREFIX + "sink_up", "1 while a sink is open", labels=["sink"])
    for number, sink in enumerate(sinks):
        up.add_metric([str(number)], float(sink.get("state") in ("open", "waiting")))
    yield up


def _at(status: Mapping[str, Any], path: str) -> float | None:
    value: Any = status
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return None if value is None else float(value)
