"""`streamdiffvsr bench live`: how old frames of a live source are when they go out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..console import build_progress
from ..errors import StreamDiffVSRError, UsageError
from . import options as opt

LiveSource = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="clock (pictures that carry the time; clock=640x360@30), or any source of live.",
    ),
]
OneSet = Annotated[
    Path | None,
    typer.Option("--engines", metavar="DIR", help="An engine set; without one, bicubic."),
]
Seconds = Annotated[float, typer.Option(metavar="S", min=1, help="How long to measure.")]
LatencyMs = Annotated[
    float | None, typer.Option(metavar="MS", min=1, help="As of live: late frames are bicubic.")
]


def live(
    source: LiveSource = "clock",
    engines: OneSet = None,
    seconds: Seconds = 30,
    latency_ms: LatencyMs = None,
    device: opt.Device = "auto",
    json_file: opt.JsonFile = None,
) -> None:
    """Measure a live source from its frames' coming to their going out."""
    from ..benchmarks.latency.noise import NoiseWatch
    from ..benchmarks.latency.result import make_result
    from ..benchmarks.live.measure import measure_live
    from ..benchmarks.machine import describe_machine
    from ..benchmarks.report.outputs import Outputs

    if engines is None and device != "auto":
        raise UsageError(
            f"--device {device} has nothing to run there",
            "without --engines the frames are made bicubic",
            "give --engines, or leave out --device",
        )
    outputs, run_on = Outputs(json_file, None, None), opt.BuildOptions(device=device).run_on
    machine, watch, stopped = describe_machine(run_on), NoiseWatch(), list[str]()
    with build_progress(enabled=json_file != "-", passing=("",)) as tell:
        tell(f"measuring {source} for {seconds:g} s")
        watch.probe()
        found = measure_live(
            source,
            engines=engines,
            seconds=seconds,
            latency_ms=latency_ms,
            device=run_on,
            on_stop=stopped.append,
        )
        watch.probe()
    outputs.write(
        make_result(
            timed="from the stamp in a picture to its being read at the sink"
            if found["stamped"]
            else "from a decoded frame to its being taken by the sink",
            machine=machine,
            noise=watch.report([]),
            settings={"frames": None, "rounds": 1, "warm_up": 0, "seed": 0},
            stopped="; ".join(stopped) or None,
            command=sys.argv[2:],
            live=found,
        )
    )
    if stopped:
        raise StreamDiffVSRError("the benchmark is not complete", "; ".join(stopped))
