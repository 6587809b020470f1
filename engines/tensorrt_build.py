"""Builds TensorRT and TensorRT-RTX plans from ONNX files, with progress and the library's log."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

from ..durable import write_atomically
from ..errors import StreamDiffVSRError, option
from ..graphs.spec import GraphSpec, TensorSpec
from .tensorrt_library import DTYPES, TrtLibrary, TrtLog, fits

Fraction = Callable[[float], None]
SMALLEST_STEP = 0.01
HELD = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name)
)


@dataclass(slots=True)
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class BuildProgress:
    """Turns the nested phases of a build into one fraction that only grows, from 0 to 1.

    The library may call from several threads at once; a lock admits one at a time.

    Attributes:
        handle: The library's progress monitor, for its builder configuration.
    """

    def __init__(self, library: TrtLibrary, report: Fraction, held: list[int]) -> None:
        """Takes `held` from `signals_held`: once a signal is in it, the build is asked to stop."""
        self._report, self._held = report, held
        self._phases: dict[str, _Phase] = {}
        self._reported = 0.0
        self._failure: BaseException | None = None
        self._lock = threading.Lock()
        self.handle = _monitor(library.module)(self)

    def raise_failure(self) -> None:
        """Raises what `report` raised during the build, if it did."""
        if self._failure is not None:
            raise self._failure

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """Starts a phase, which is one step of its parent."""
        with self._guarded():
            self._phases[name] = _Phase(parent, max(1, steps))

    def finish(self, name: str) -> None:
        """Ends a phase; its parent counts the step itself."""
        with self._guarded():
            self._phases.pop(name, None)

    def step(self, name: str, step: int) -> bool:
        """Counts a finished step of a phase; returning False asks the library to stop."""
        with self._guarded():
            self._count(name, step)
        return self._failure is None and not self._held

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """Admits one thread at a time, and stores exceptions, which must not cross C++."""
        with self._lock:
            try:
                yield
            except BaseException as error:
                self._failure = self._failure or error

    def _count(self, name: str, step: int) -> None:
        if name in self._phases:
            self._phases[name].done = step + 1
        fraction = max(
            (self._fraction(n) for n, p in self._phases.items() if not p.parent), default=0
        )
        if self._failure is None and fraction >= self._reported + SMALLEST_STEP:
            self._reported = fraction
            self._report(fraction)

    def _fraction(self, name: str) -> float:
        phase = self._phases[name]
        inner = max(
            (self._fraction(n) for n, p in self._phases.items() if p.parent == name), default=0
        )
        return min(1.0, (phase.done + inner) / phase.steps)


@contextlib.contextmanager
def signals_held() -> Iterator[list[int]]:
    """Holds back Ctrl-C and SIGTERM: yields those received, and delivers the first at the end.

    Python would otherwise raise from the first line of a callback, before any `try` in it.
    """
    held: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield held  # signals never reach Python code in other threads
        return

    def hold(number: int, _frame: FrameType | None) -> None:
        held.append(number)

    before = {number: signal.signal(number, hold) for number in HELD}
    try:
        yield held
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        for number in held[:1]:
            signal.raise_signal(number)


@cache
def _monitor(module: Any) -> Any:
    """Returns a progress monitor class of this library, whose base is the library's own."""

    class Monitor(module.IProgressMonitor):  # type: ignore[misc]  # of a library without types
        def __init__(self, progress: BuildProgress) -> None:
            module.IProgressMonitor.__init__(self)
            self._progress = progress

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            self._progress.start(name, parent, steps)

        def phase_finish(self, name: str) -> None:
            self._progress.finish(name)

        def step_complete(self, name: str, step: int) -> bool:
            return self._progress.step(name, step)

    return Monitor


RTX_CAPABILITIES = (80, 86, 89, 120, 121)
TURING = 75  # one such entry fails the whole list: it has no fp32 GEMM
# From the fastest build to the fastest engine, and the libraries' default.
OPTIMIZATION_LEVELS, USUAL_LEVEL = range(6), 3


@dataclass(frozen=True, slots=True)
class BuildSettings:
    """The build settings of a plan that are not in the graph.

    Attributes:
        compute_capabilities: The GPUs of a TensorRT-RTX plan: 89 for 8.9. TensorRT has no choice.
        workspace_bytes: The most scratch memory that a layer may take; None is the library's.
        optimization_level: One of `OPTIMIZATION_LEVELS`; None is the library's.
        timing_cache: The file that keeps measured kernel times between builds, or None.
        bounds: The graph at the least, the usual and the largest size of a range; empty if the plan
            has one size.
    """

    compute_capabilities: tuple[int, ...] = RTX_CAPABILITIES
    workspace_bytes: int | None = None
    optimization_level: int | None = None
    timing_cache: Path | None = None
    bounds: tuple[GraphSpec, ...] = ()


def build_plan(
    library: TrtLibrary,
    onnx: Path,
    spec: GraphSpec,
    plan: Path,
    settings: BuildSettings,
    progress: Fraction,
) -> None:
    """Builds the plan of one graph.

    Args:
        onnx: The network; external weight files are found in the same folder.
        plan: The file to write.
        progress: Called with the fraction that is done; an exception from it stops the build.

    Raises:
        StreamDiffVSRError: The library refused, and is quoted, or the graph is not the spec's.
        KeyboardInterrupt: Ctrl-C was pressed; the build was stopped first.
    """
    trt, log = library.module, TrtLog(library)
    builder = _made(library, log, lambda: trt.Builder(log.handle), "make a builder")
    network = _made(
        library, log, lambda: builder.create_network(library.network_flags), "make a network"
    )
    parser = trt.OnnxParser(network, log.handle)  # owns the weights: kept until the plan is made
    _parse(library, parser, onnx)
    _check_tensors(library, network, onnx, spec, ranged=bool(settings.bounds))
    config = _made(library, log, builder.create_builder_config, "configure a build")
    if settings.bounds:
        _set_bounds(library, log, builder.create_optimization_profile(), config, settings.bounds)
    _configure(library, log, config, settings)
    with signals_held() as held:
        monitor = BuildProgress(library, progress, held)
        config.progress_monitor = monitor.handle
        data = builder.build_serialized_network(network, config)
    monitor.raise_failure()
    if data is None:
        raise StreamDiffVSRError(f"{library.title} cannot build {spec.name}", log.reason())
    _write(plan, data)
    _keep_timings(library, config, settings)


def capability_name(library: TrtLibrary, capability: int) -> Any:
    """Returns the library's name for a compute capability, 89 for 8.9.

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
    """Returns a compute capability, such as 89, as people write it: 8.9."""
    return f"{capability // 10}.{capability % 10}"


def _made(library: TrtLibrary, log: TrtLog, make: Any, what: str) -> Any:
    """Returns the result of a library's factory, which fails with None or with an exception."""
    try:
        result = make()
    except (RuntimeError, TypeError) as error:  # raised by the binding when C++ returned nothing
        raise StreamDiffVSRError(f"{library.title} cannot {what}", log.reason()) from error
    if result is None:
        raise StreamDiffVSRError(f"{library.title} cannot {what}", log.reason())
    return result


def _parse(library: TrtLibrary, parser: Any, onnx: Path) -> None:
    accepted = parser.parse_from_file(os.fspath(onnx))
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    if not accepted or errors:
        reason = "; ".join(" ".join(f"{e.node_name()} {e.desc()}".split()) for e in errors[:3])
        raise StreamDiffVSRError(
            f"{library.title} cannot read {onnx.name}", reason or "the parser does not say why"
        )


def _set_bounds(
    library: TrtLibrary, log: TrtLog, profile: Any, config: Any, bounds: tuple[GraphSpec, ...]
) -> None:
    """Sets the sizes that a plan takes: the least, the one it is tuned for, and the largest."""
    for tensors in zip(*(spec.inputs for spec in bounds), strict=True):
        profile.set_shape(tensors[0].name, *(tensor.shape for tensor in tensors))
    if config.add_optimization_profile(profile) < 0:
        raise StreamDiffVSRError(f"{library.title} refuses the range of sizes", log.reason())


def _check_tensors(
    library: TrtLibrary, network: Any, onnx: Path, spec: GraphSpec, *, ranged: bool
) -> None:
    """Checks the inputs and outputs: a file that is not a network parses as an empty one."""
    found = [network.get_input(i) for i in range(network.num_inputs)]
    given = [network.get_output(i) for i in range(network.num_outputs)]
    for kind, tensors, wanted in (("inputs", found, spec.inputs), ("outputs", given, spec.outputs)):
        have = [_described(tensor) for tensor in tensors]
        pairs = list(zip(*(sorted(x, key=lambda t: t.name) for x in (have, wanted)), strict=False))
        right = all(fits(a, b) if ranged else a == b for a, b in pairs)
        if len(have) != len(wanted) or not right:
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
        # Otherwise a TensorRT-RTX engine may allocate while it runs, which stream capture forbids.
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
                    f"{library.title} refuses compute capability {capability}", log.reason()
                )
    elif settings.timing_cache is not None and hasattr(config, "create_timing_cache"):
        kept = settings.timing_cache
        cache = config.create_timing_cache(kept.read_bytes() if kept.is_file() else b"")
        if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
            config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)


def _keep_timings(library: TrtLibrary, config: Any, settings: BuildSettings) -> None:
    """Stores the measured kernel times; without them the next build measures again."""
    if settings.timing_cache is None or library.builds_for_named_gpus:
        return
    cache = config.get_timing_cache() if hasattr(config, "get_timing_cache") else None
    data = cache.serialize() if cache is not None else None
    if data is not None:
        settings.timing_cache.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(settings.timing_cache) as part:
            part.write_bytes(data)


def _write(plan: Path, data: Any) -> None:
    try:
        plan.write_bytes(data)
    except OSError as error:
        raise StreamDiffVSRError(
            f"cannot write {plan.name} to {plan.parent}",
            str(error),
            f"free space or use {option('out')}",
        ) from error
