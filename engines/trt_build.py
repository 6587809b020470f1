"""One ONNX file -> one plan file, with TensorRT or TensorRT-RTX.

The precision is the graph's own: networks are strongly typed, and nothing is quantised or cast that
the graph does not. TensorRT-RTX builds without a GPU, for named compute capabilities; TensorRT
builds on the GPU that the plan is for.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import StreamDiffVSRError
from ..spec import GraphSpec, TensorSpec
from .trt_library import TrtLibrary, TrtLog
from .trt_progress import BuildProgress, Fraction, signals_held

RTX_CAPABILITIES = (80, 86, 89, 120, 121)
TURING = 75  # one such entry fails the whole list: it has no fp32 GEMM
# From the quickest build to the quickest engine, and what the libraries take by themselves.
OPTIMIZATION_LEVELS, USUAL_LEVEL = range(6), 3
DTYPES = {"FLOAT": "float32", "HALF": "float16", "INT32": "int32", "UINT8": "uint8"}


@dataclass(frozen=True, slots=True)
class BuildSettings:
    """What the graph does not say of its plan.

    Attributes:
        compute_capabilities: The GPUs of a TensorRT-RTX plan: 89 for 8.9. TensorRT has no choice.
        workspace_bytes: The most scratch memory that a layer may take; None is the library's.
        optimization_level: One of `OPTIMIZATION_LEVELS`; None is the library's.
        timing_cache: Where measured kernel times are kept between builds; None for nowhere.
    """

    compute_capabilities: tuple[int, ...] = RTX_CAPABILITIES
    workspace_bytes: int | None = None
    optimization_level: int | None = None
    timing_cache: Path | None = None


def build_plan(
    library: TrtLibrary,
    onnx: Path,
    spec: GraphSpec,
    plan: Path,
    settings: BuildSettings,
    progress: Fraction,
) -> None:
    """Build the plan of one graph.

    Args:
        onnx: The network; weights beside it in external files are found.
        plan: The file to write.
        progress: Called with the fraction that is done; what it raises stops the build.

    Raises:
        StreamDiffVSRError: The library refused, with its own words, or the graph is not the spec's.
        KeyboardInterrupt: Ctrl-C came; the build was stopped first.
    """
    trt, log = library.module, TrtLog(library)
    builder = _made(library, log, lambda: trt.Builder(log.handle), "make a builder")
    network = _made(
        library, log, lambda: builder.create_network(library.network_flags), "make a network"
    )
    parser = trt.OnnxParser(network, log.handle)  # owns the weights: lives until the plan is made
    _parse(library, parser, onnx)
    _check_tensors(library, network, onnx, spec)
    config = _made(library, log, builder.create_builder_config, "configure a build")
    _configure(library, log, config, settings)
    with signals_held() as held:
        monitor = BuildProgress(library, progress, held)
        config.progress_monitor = monitor.handle
        data = builder.build_serialized_network(network, config)
    monitor.raise_failure()
    if data is None:
        raise StreamDiffVSRError(f"{library.title} cannot build {spec.name}", log.told())
    _write(plan, data)
    _keep_timings(library, config, settings)


def capability_name(library: TrtLibrary, capability: int) -> Any:
    """The library's name for a compute capability, 89 for 8.9.

    Raises:
        StreamDiffVSRError: It has none, or these graphs cannot be built for it.
    """
    names = library.module.ComputeCapability
    found = getattr(names, f"SM{capability}", None)
    if found is None or capability <= TURING:
        known = sorted(int(name[2:]) for name in dir(names) if name.startswith("SM"))
        usable = ", ".join(_dotted(n) for n in known if n > TURING)
        why = "it has no plans for it" if found is None else "these graphs need more than it offers"
        raise StreamDiffVSRError(
            f"{library.title} {library.version} cannot build for compute capability "
            f"{_dotted(capability)}",
            why,
            f"choose among {usable}",
        )
    return found


def _dotted(capability: int) -> str:
    """89 as people write it: 8.9."""
    return f"{capability // 10}.{capability % 10}"


def _made(library: TrtLibrary, log: TrtLog, make: Any, what: str) -> Any:
    """The result of a factory of the library, which fails with None or with an exception."""
    try:
        result = make()
    except (RuntimeError, TypeError) as error:  # the binding's, where C++ returned nothing
        raise StreamDiffVSRError(f"{library.title} cannot {what}", log.told()) from error
    if result is None:
        raise StreamDiffVSRError(f"{library.title} cannot {what}", log.told())
    return result


def _parse(library: TrtLibrary, parser: Any, onnx: Path) -> None:
    accepted = parser.parse_from_file(os.fspath(onnx))
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    if not accepted or errors:
        told = "; ".join(" ".join(f"{e.node_name()} {e.desc()}".split()) for e in errors[:3])
        raise StreamDiffVSRError(
            f"{library.title} cannot read {onnx.name}", told or "the parser does not say why"
        )


def _check_tensors(library: TrtLibrary, network: Any, onnx: Path, spec: GraphSpec) -> None:
    """A file that is no network at all parses as an empty one."""
    found = [network.get_input(i) for i in range(network.num_inputs)]
    given = [network.get_output(i) for i in range(network.num_outputs)]
    for kind, tensors, wanted in (("inputs", found, spec.inputs), ("outputs", given, spec.outputs)):
        have = [_described(tensor) for tensor in tensors]
        if sorted(have, key=lambda t: t.name) != sorted(wanted, key=lambda t: t.name):
            raise StreamDiffVSRError(
                f"{onnx.name} is not the graph {spec.name}",
                f"{library.title} finds the {kind} {_listed(have)}, not {_listed(wanted)}",
                "export it again",
            )


def _described(tensor: Any) -> TensorSpec:
    dtype = DTYPES.get(tensor.dtype.name, tensor.dtype.name)
    return TensorSpec(str(tensor.name), tuple(int(side) for side in tensor.shape), dtype)


def _listed(tensors: Any) -> str:
    return ", ".join(f"{t.name} {t.dtype} {t.shape}" for t in tensors) or "none"


def _configure(library: TrtLibrary, log: TrtLog, config: Any, settings: BuildSettings) -> None:
    trt = library.module
    config.clear_flag(trt.BuilderFlag.TF32)  # fp32 means fp32
    if hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):
        # Else a TensorRT-RTX engine may allocate as it runs, which no stream capture allows.
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    if hasattr(config, "max_aux_streams"):
        config.max_aux_streams = 0  # the runtime schedules its own streams
    if settings.optimization_level is not None:
        config.builder_optimization_level = settings.optimization_level
    if settings.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_bytes)
    if library.builds_for_named_gpus:
        config.num_compute_capabilities = len(settings.compute_capabilities)
        for index, capability in enumerate(settings.compute_capabilities):
            if not config.set_compute_capability(capability_name(library, capability), index):
                raise StreamDiffVSRError(
                    f"{library.title} refuses compute capability {capability}", log.told()
                )
    elif settings.timing_cache is not None and hasattr(config, "create_timing_cache"):
        kept = settings.timing_cache
        cache = config.create_timing_cache(kept.read_bytes() if kept.is_file() else b"")
        if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
            config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)


def _keep_timings(library: TrtLibrary, config: Any, settings: BuildSettings) -> None:
    """Keep what was measured; without it the next build measures again."""
    if settings.timing_cache is None or library.builds_for_named_gpus:
        return
    cache = config.get_timing_cache() if hasattr(config, "get_timing_cache") else None
    data = cache.serialize() if cache is not None else None
    if data is not None:
        settings.timing_cache.parent.mkdir(parents=True, exist_ok=True)
        part = settings.timing_cache.with_suffix(f".{os.getpid()}.part")
        part.write_bytes(data)
        os.replace(part, settings.timing_cache)


def _write(plan: Path, data: Any) -> None:
    try:
        plan.write_bytes(data)
    except OSError as error:
        raise StreamDiffVSRError(
            f"cannot write {plan.name} to {plan.parent}", str(error), "free space or use --out"
        ) from error
