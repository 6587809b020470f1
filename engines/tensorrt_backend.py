"""The functions of the two TensorRT backends for each stage of an engine set's life.

A plan belongs to the library version that made it and to the GPUs it was made for; both are in the
engine key, and a plan with another key is never deserialised.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import StreamDiffVSRError, UsageError, option, without
from ..graphs.spec import GraphSet, GraphSpec, onnx_file
from .cache import cache_root, plain_name
from .cuda_driver import primary_context
from .host import FP8, FP8_CAPABILITY, check_capability, cuda_gpu, why_no_gpu
from .interface import ordinal_of
from .manifest import EngineKey, Target
from .tensorrt_build import (
    OPTIMIZATION_LEVELS,
    RTX_CAPABILITIES,
    USUAL_LEVEL,
    BuildSettings,
    Fraction,
    build_plan,
    capability_name,
)
from .tensorrt_engine import Scratch, TrtEngine
from .tensorrt_library import load_library

RTX = "tensorrt-rtx"


def plan_file(name: str) -> str:
    """Returns the name of a graph's engine file."""
    return f"{name}.plan"


def target(
    backend: str, capabilities: tuple[int, ...] | None, precision: str, device: str = "cuda"
) -> Target:
    """Returns what a plan that is built now would depend on.

    Args:
        capabilities: Compute capabilities of a TensorRT-RTX plan, 89 for 8.9; None for the default,
            which is all that compute in this precision.
        device: The GPU that a TensorRT plan is for.

    Raises:
        StreamDiffVSRError: The library does not load, or cannot build for that here.
    """
    library = load_library(backend)
    if library.builds_for_named_gpus:
        chosen = tuple(sorted(set(capabilities or _usual(precision))))
        check_capability(chosen, precision)
        for capability in chosen:
            capability_name(library, capability)
        return Target(library.version, ",".join(f"sm{c}" for c in chosen))
    if capabilities is not None:
        raise StreamDiffVSRError(
            f"{library.title} has no list of compute capabilities",
            "it builds for the GPU of this machine",
            f"leave the list out, or use {option('backend', RTX)}",
        )
    gpu = cuda_gpu(ordinal_of(device))
    if gpu is None:
        raise StreamDiffVSRError(
            f"{library.title} cannot build engines here",
            "it builds on the GPU that they are for, and CUDA finds none",
            f"use {option('backend', RTX)}, which builds without one",
        )
    check_capability((int(gpu.sm.removeprefix("sm")),), precision)
    return Target(library.version, f"{gpu.name} {gpu.sm}")


def optimization_level(backend: str, asked: int | None) -> int | None:
    """Returns the level at which to build plans, or None for the library's own.

    Raises:
        UsageError: There is no such level.
    """
    if asked is None:
        return None
    library = load_library(backend)
    if not library.has_optimization_levels:
        raise UsageError(
            f"{library.title} {library.version} has no optimization levels",
            remedy=without("optimization_level"),
        )
    if asked not in OPTIMIZATION_LEVELS:
        least, most = OPTIMIZATION_LEVELS[0], OPTIMIZATION_LEVELS[-1]
        raise UsageError(
            f"an optimization level of {asked} is not possible",
            remedy=f"use {least} to {most}; {USUAL_LEVEL} is what {library.title} takes by itself",
        )
    return None if asked == USUAL_LEVEL else asked


def compile_graph(
    folder: Path, spec: GraphSpec, key: EngineKey, workspace_bytes: int | None, progress: Fraction
) -> None:
    """Replaces a graph's ONNX file by its plan; weights, which graphs share, stay.

    Raises:
        StreamDiffVSRError: The library refused it; the message quotes the library.
    """
    from .tensorrt_graph import rewrite_graph

    library = load_library(key.backend)
    onnx = folder / onnx_file(spec.name)
    settings = BuildSettings(
        compute_capabilities=_capabilities(key) if library.builds_for_named_gpus else (),
        workspace_bytes=workspace_bytes,
        optimization_level=key.optimization_level,
        timing_cache=None if library.builds_for_named_gpus else _timing_cache(key),
        bounds=_bounds(folder, spec) if key.sizes else (),
    )
    rewrite_graph(onnx, group_norms=library.has_group_norms)
    build_plan(library, onnx, spec, folder / plan_file(spec.name), settings, progress)
    onnx.unlink()


def open_plan(
    backend: str, folder: Path, spec: GraphSpec, device: str, scratch: Scratch | None = None
) -> TrtEngine:
    """Opens a graph's engine; the caller has called `obstacle` and checked the file's digest."""
    return TrtEngine(load_library(backend), folder / plan_file(spec.name), spec, device, scratch)


def unavailable(backend: str, device: str) -> str:
    """Returns why the library cannot be used on a GPU of this machine, or an empty string."""
    try:
        library = load_library(backend)
    except StreamDiffVSRError as error:
        return error.why or error.what
    gpu = cuda_gpu(ordinal_of(device))
    known = {f"sm{capability}" for capability in RTX_CAPABILITIES}
    if library.builds_for_named_gpus and gpu is not None and gpu.sm not in known:
        return f"it makes no plans for {gpu.sm}"
    return ""


def details(backend: str, version: str) -> str:
    """Returns the version of the library, and whether it builds without a GPU.

    Raises:
        StreamDiffVSRError: The library does not load.
    """
    library = load_library(backend)
    without_gpu = ", builds engines without a GPU" if library.builds_for_named_gpus else ""
    return f"{library.version}{without_gpu}"


def library_version(backend: str) -> str:
    """Returns the version of the library as it is in a key."""
    return load_library(backend).version


def make_scratch(device: str) -> Scratch:
    """Returns memory that the plans of one lane share."""
    return Scratch(primary_context(ordinal_of(device)))


def obstacle(key: EngineKey, device: str) -> str:
    """Returns why engines of this key cannot run on a GPU of this machine, or an empty string."""
    library = load_library(key.backend)
    if key.library != library.version:
        return f"it was built with {library.title} {key.library}, installed is {library.version}"
    ordinal = ordinal_of(device)
    gpu = cuda_gpu(ordinal)
    if gpu is None:
        return why_no_gpu(ordinal) if ordinal else "CUDA finds no NVIDIA GPU here"
    if library.builds_for_named_gpus and gpu.sm not in key.gpu.split(","):
        return f"it was built for {key.gpu}, and the {gpu.name} here is {gpu.sm}"
    if not library.builds_for_named_gpus and key.gpu != f"{gpu.name} {gpu.sm}":
        return f"it was built for the {key.gpu}, and the GPU here is the {gpu.name} {gpu.sm}"
    return ""


def _bounds(folder: Path, spec: GraphSpec) -> tuple[GraphSpec, ...]:
    """Returns a graph at the bounds of its set's sizes; empty if it is the same at all."""
    graphs = GraphSet.read(folder)
    assert graphs.sizes is not None
    bounds = tuple(graphs.at(size).specs()[spec.name] for size in graphs.sizes.to_json())
    return bounds if len(set(bounds)) > 1 else ()


def _usual(precision: str) -> tuple[int, ...]:
    """Returns the compute capabilities of a TensorRT-RTX plan if none are named."""
    least = FP8_CAPABILITY if precision == FP8 else 0
    return tuple(c for c in RTX_CAPABILITIES if c >= least)


def _capabilities(key: EngineKey) -> tuple[int, ...]:
    return tuple(int(name.removeprefix("sm")) for name in key.gpu.split(","))


def _timing_cache(key: EngineKey) -> Path:
    return cache_root() / "timings" / f"{plain_name(f'{key.library}-{key.gpu}')}.cache"
