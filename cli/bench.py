"""Defines `streamdiffvsr bench`, which measures the latency and throughput of engines, files and
live sources."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..building.request import AUTO, BuildRequest
from ..errors import StreamDiffVSRError, UsageError
from ..graphs.spec import check_size
from ..runtime.live.mode import EXACT
from . import options as opt
from .console import build_progress
from .engines import build_engines, engine_provider
from .live import opener
from .live_modes import Adaptive, Mode, choose_mode, open_adaptive

if TYPE_CHECKING:
    from ..benchmarks.live import Making
    from ..benchmarks.report.files import Outputs
    from ..benchmarks.run import Settings

ALL = "all"
NO_BASELINES = "none"

LiveSource = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="clock (generated pictures that carry their time; clock=640x360@30 sets size and "
        "frames per second), or any source that the command live accepts.",
    ),
]
OneSet = Annotated[
    Path | None,
    typer.Option(
        "--engines",
        metavar="DIR",
        help="Folder of an engine set to measure."
        + opt.default("none: frames are enlarged by bicubic, without the model"),
    ),
]
Seconds = Annotated[
    float, typer.Option(metavar="S", min=1, help="Measure for S seconds, after the warm-up.")
]
LatencyMs = Annotated[
    float | None,
    typer.Option(
        metavar="MS",
        min=1,
        help="Latency limit in milliseconds, as in the command live; frames that would be late "
        "are enlarged by bicubic." + opt.default("no limit"),
    ),
]


def live(
    source: LiveSource = "clock",
    engines: OneSet = None,
    seconds: Seconds = 30,
    latency_ms: LatencyMs = None,
    mode: Mode = EXACT,
    device: opt.Device = "auto",
    json_file: opt.JsonFile = None,
) -> None:
    """Measure the latency of a live source, from a frame's capture to its output.

    Without --engines this is the latency of everything but the model; in the modes adaptive and
    auto the built-in model's engines are then found or built.
    """
    from ..benchmarks.live import measure_live
    from ..benchmarks.machine import describe_machine
    from ..benchmarks.report.files import Outputs
    from ..benchmarks.run import make_result
    from ..benchmarks.statistics import NoiseWatch

    asked = choose_mode(mode, engines)
    if engines is None and asked.mode == EXACT and device != "auto":
        raise UsageError(
            f"--device {device} has no effect",
            "without --engines no model runs, and frames are enlarged by bicubic",
            "give --engines or --mode adaptive, or leave out --device",
        )
    outputs, run_on = Outputs(json_file, None, None), BuildRequest(device=device).run_on
    machine, watch, stopped = describe_machine(run_on), NoiseWatch(), list[str]()
    with build_progress(enabled=json_file != "-", passing=("",)) as progress:
        progress(f"measuring {source} for {seconds:g} s")
        watch.probe()
        found = measure_live(
            source,
            engines=engines,
            seconds=seconds,
            latency_ms=latency_ms,
            device=run_on,
            how=_making(asked, engines, device, latency_ms),
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


def _making(
    asked: Adaptive, engines: Path | None, device: str, latency_ms: float | None
) -> Making | None:
    """Returns how adaptive frames are made; None in exact mode."""
    from ..benchmarks.live import Making

    provider = engine_provider(BuildRequest(device=device))
    canvas = open_adaptive(asked, engines, provider, latency_ms=latency_ms)
    if canvas is None:
        return None
    return Making(asked.mode, canvas, opener(engines, provider, 0, None))


bench_app = typer.Typer(invoke_without_command=True, no_args_is_help=False)
bench_app.command("live", cls=opt.Command)(live)

EngineSets = Annotated[
    list[Path] | None,
    typer.Option(
        "--engines",
        metavar="DIR",
        help="Folder of an engine set to measure; repeat for more sets. Cannot be combined with "
        "--size, --backends, or options of a build other than --device."
        + opt.default("found in the cache, or built"),
    ),
]
Backends = Annotated[
    str | None,
    typer.Option(
        metavar="LIST",
        help="Measure several backends: a list such as onnxruntime,torch, or all."
        + opt.default("only --backend"),
    ),
]
Frames = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Time N frames in each mode: plain (stages one after another), throughput (as for "
        "files on a GPU: frames overlap) and latency (as for live on a GPU)."
        + opt.default("as many as fit in 15 seconds per mode, at least 20, at most 400"),
    ),
]
Rounds = Annotated[
    int,
    typer.Option(
        metavar="N",
        min=1,
        max=100,
        help="Divide the timed frames into N rounds; each set, mode and baseline runs once in each "
        "round, so that changes of the machine's speed affect all alike.",
    ),
]
Baselines = Annotated[
    str,
    typer.Option(
        metavar="LIST",
        help="Compare with bicubic, with reference (the model in torch, computed as the original "
        "code does), with both (bicubic,reference), or with none.",
    ),
]
Command = Annotated[
    str | None,
    typer.Option(
        "--baseline",
        metavar="CMD",
        help="Also compare with this command; {input} and {output} in it become the paths of a "
        "video to upscale and of the upscaled video.",
    ),
]
Quick = Annotated[
    bool,
    opt.flag("--quick", "Measure only frame times: no start-up, memory, video files or roofline."),
]
TraceFile = Annotated[
    Path | None,
    typer.Option(
        "--trace", metavar="FILE", help="Write a timeline of a few frames, for ui.perfetto.dev."
    ),
]
ReportFile = Annotated[
    Path | None, typer.Option("--report", metavar="FILE", help="Write the result as an HTML page.")
]
FirstResult = Annotated[
    Path, typer.Argument(metavar="A.json", help="First result file, written by bench --json.")
]
SecondResult = Annotated[
    Path, typer.Argument(metavar="B.json", help="Second result file, written by bench --json.")
]


@bench_app.callback()
@opt.with_build_options()
def bench(
    context: typer.Context,
    engines: EngineSets = None,
    sizes: opt.Sizes = None,
    backends: Backends = None,
    frames: Frames = None,
    rounds: Rounds = 5,
    baselines: Baselines = "bicubic",
    command: Command = None,
    quick: Quick = False,
    json_file: opt.JsonFile = None,
    trace: TraceFile = None,
    report: ReportFile = None,
    *,
    build: BuildRequest,
) -> None:
    """Measure frame times, latency, stages, start-up and memory of engines, and of baselines.

    Missing engines are built first, which is not timed.
    """
    if context.invoked_subcommand is not None:
        return
    from ..benchmarks.report.files import Outputs
    from ..engines.engine_set import device_of
    from ..engines.manifest import read_manifest

    outputs = Outputs(json_file, trace, report)
    run_on = build.run_on
    settings = _settings(frames, rounds, baselines, command, run_on, around=not quick)
    if engines:
        opt.refuse_with_engines(build, sizes, backends)
    if quick and trace is not None:
        raise UsageError("--quick leaves out what --trace shows", remedy="leave out one of them")
    quiet = json_file == "-"
    for folder in engines if engines and run_on else []:
        device_of(folder, read_manifest(folder), run_on)  # refused before anything is timed
    folders = engines or _build(build, sizes, backends, quiet=quiet)
    _measure(folders, settings, outputs, quiet=quiet)


@bench_app.command("compare", cls=opt.Command)
def compare(a: FirstResult, b: SecondResult, json: opt.Json = False) -> dict[str, Any]:
    """Show what changed from result A to result B, and whether it is more than their noise."""
    from ..benchmarks.report.compare import compare as compared
    from ..benchmarks.report.files import read_result
    from ..benchmarks.report.tables import show_comparison

    found = compared(read_result(a), read_result(b))
    if not json:
        show_comparison(found)
    return found.to_json()


def _settings(
    frames: int | None,
    rounds: int,
    baselines: str,
    command: str | None,
    device: str | None,
    *,
    around: bool,
) -> Settings:
    from ..benchmarks.baselines import split_command
    from ..benchmarks.run import BASELINES, Settings

    if frames is not None and frames < 1:
        raise UsageError(f"--frames {frames} leaves nothing to time", remedy="use 1 or more")
    names = [name for name in baselines.split(",") if name and name != NO_BASELINES]
    for name in names:
        if name not in BASELINES:
            raise UsageError(
                f"unknown baseline {name!r}", remedy=f"use {', '.join(BASELINES)} or {NO_BASELINES}"
            )
    return Settings(
        frames=frames,
        rounds=rounds if frames is None else min(rounds, frames),
        baselines=tuple(names),
        command=() if command is None else tuple(split_command(command)),
        around=around,
        device=device,
    )


def _build(
    build: BuildRequest, sizes: Sequence[str] | None, backends: str | None, *, quiet: bool
) -> list[Path]:
    """Returns an engine set for each size and backend.

    With several backends, one that cannot be built is reported on stderr and left out.
    """
    wanted = opt.parse_sizes(sizes)
    for size in wanted:
        check_size(size)
    if backends is None:
        provider = engine_provider(build)
        provider.check_runs_here()
        return [build_engines(provider, size, quiet=quiet) for size in wanted]
    folders = []
    for size in wanted:
        for each in _each_backend(build, backends):
            try:
                folders.append(build_engines(engine_provider(each), size, quiet=quiet))
            except StreamDiffVSRError as error:
                typer.echo(f"without {each.backend} on {each.device}: {error}", err=True)
    if not folders:
        raise StreamDiffVSRError("nothing can be measured", "no engines could be built")
    return folders


def _each_backend(build: BuildRequest, listed: str) -> list[BuildRequest]:
    """Returns a request for each listed backend that works here, the best first."""
    from dataclasses import replace

    from ..engines.backends import order, ranked_names
    from ..engines.interface import kind_of
    from ..engines.registry import why_not

    asked = None if build.device == AUTO else kind_of(build.device)
    names = None if listed == ALL else listed.split(",")
    for name in names or ():
        if name not in ranked_names():
            raise UsageError(
                f"unknown backend {name!r}", remedy=f"use all, {', '.join(ranked_names())}"
            )
    found = []
    for name, kind in order():
        if (names is None or name in names) and asked in (None, kind):
            device = kind if asked is None else build.device
            why = why_not(name, device)
            if why:
                typer.echo(f"without {name} on {device}: {why}", err=True)
            else:
                found.append(replace(build, backend=name, device=device))
    return found


def _measure(folders: Sequence[Path], settings: Settings, outputs: Outputs, *, quiet: bool) -> None:
    from ..benchmarks.run import Benchmark

    with build_progress(enabled=not quiet, passing=("",)) as progress:
        benchmark = Benchmark(settings, progress)
        try:
            benchmark.run(folders)
        except KeyboardInterrupt:
            outputs.write(benchmark.result() | {"command": sys.argv[2:]})
            raise
        result = benchmark.result() | {"command": sys.argv[2:]}
    if not result["subjects"]:
        raise StreamDiffVSRError("nothing was measured", result["stopped"])
    outputs.write(result)
    if not result["complete"]:
        raise StreamDiffVSRError("the benchmark is not complete", result["stopped"])
