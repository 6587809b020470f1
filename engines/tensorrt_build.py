"""Builds TensorRT and TensorRT-RTX plans from ONNX files, with progress and the library's log."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

from ..durable import write_atomically
from ..errors import StreamDiffVSRError, option
from ..graphs.spec import GraphSpec, TensorSpec

MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}  # backend -> module
TITLES = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}
# What this package cannot do without: TensorRT 8 and a stray folder of the name lack some of it.
NEEDED = ("Builder", "OnnxParser", "Runtime", "ILogger", "IProgressMonitor", "IRuntimeConfig")
KEPT_LINES = 32
TOLD_LINES = 3
ERRORS = ("INTERNAL_ERROR", "ERROR")


@dataclass(frozen=True, slots=True)
class TrtLibrary:
    """A loaded library.

    Attributes:
        module: `tensorrt` or `tensorrt_rtx`.
        title: Its name as a user knows it.
    """

    module: Any
    title: str
    version: str

    @property
    def builds_for_named_gpus(self) -> bool:
        """Plans are for a list of compute capabilities, and are built without a GPU (RTX)."""
        return hasattr(self.module.IBuilderConfig, "num_compute_capabilities")

    @property
    def has_optimization_levels(self) -> bool:
        """Whether a build can be told how long to look for quicker engines."""
        return hasattr(self.module.IBuilderConfig, "builder_optimization_level")

    @property
    def has_group_norms(self) -> bool:
        """Whether its norms scale by channel, as ONNX has it since opset 21, and not by group."""
        return hasattr(self.module.INetworkDefinition, "add_normalization_v2")

    @property
    def network_flags(self) -> int:
        """Of `create_network`: strongly typed, which is the only kind where FP16 flags are gone."""
        if not hasattr(self.module.BuilderFlag, "FP16"):
            return 0
        return 1 << int(self.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


@cache
def load_library(backend: str) -> TrtLibrary:
    """The library of a backend.

    Args:
        backend: "tensorrt" or "tensorrt-rtx".

    Raises:
        StreamDiffVSRError: It is not installed, cannot be loaded, or is too old.
    """
    name, title = MODULES[backend], TITLES[backend]
    remedy = f"run pip install 'streamdiffvsr[{backend}]'"
    try:
        module = import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name:
            raise StreamDiffVSRError(
                f"{title} is not installed", f"there is no module {name}", remedy
            ) from None
        raise StreamDiffVSRError(f"{title} cannot be loaded", str(error), remedy) from error
    except Exception as error:  # without its libraries it fails as the platform's loader does
        raise StreamDiffVSRError(
            f"{title} cannot be loaded",
            f"{type(error).__name__}: {error}",
            f"run pip install --force-reinstall 'streamdiffvsr[{backend}]'",
        ) from error
    if missing := [needed for needed in NEEDED if not hasattr(module, needed)]:
        version = getattr(module, "__version__", "of an unknown version")
        raise StreamDiffVSRError(
            f"{title} {version} cannot be used", f"it has no {', '.join(missing)}", remedy
        )
    return TrtLibrary(module, title, str(module.__version__))


class TrtLog:
    """What the library has said since a moment, so that errors can quote it.

    Attributes:
        handle: What the library's constructors take.
    """

    def __init__(self, library: TrtLibrary) -> None:
        self.handle = _listener(library.module)
        self._before = self.handle.count

    def told(self) -> str:
        """The last errors since then in one line, or that there were none."""
        count = self.handle.count - self._before
        last = list(dict.fromkeys(list(self.handle.errors)[-count:] if count else []))
        return "; ".join(last[-TOLD_LINES:]) or "the library does not say why"


@cache
def _listener(module: Any) -> Any:
    """The one logger of a library: it speaks to the first that it was given, and lives as long.

    Its base is the library's own class, so it is made at run time.
    """

    class Listener(module.ILogger):  # type: ignore[misc]  # a class of a library without types
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=KEPT_LINES)
            self.count = 0

        def log(self, severity: Any, text: str) -> None:
            if severity.name in ERRORS:
                self.errors.append(" ".join(text.split()))
                self.count += 1

    return Listener()


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
    """Nested phases of a build -> one fraction that only grows, from 0 to 1.

    The library may call from several threads at once: one at a time gets in.

    Attributes:
        handle: The library's progress monitor, for its builder configuration.
    """

    def __init__(self, library: TrtLibrary, report: Fraction, held: list[int]) -> None:
        """`held` is of `signals_held`: a build with a signal waiting is told to stop."""
        self._report, self._held = report, held
        self._phases: dict[str, _Phase] = {}
        self._told = 0.0
        self._failure: BaseException | None = None
        self._lock = threading.Lock()
        self.handle = _monitor(library.module)(self)

    def raise_failure(self) -> None:
        """Raise what `report` has raised during the build, if it has."""
        if self._failure is not None:
            raise self._failure

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase begins, as one step of its parent."""
        with self._guarded():
            self._phases[name] = _Phase(parent, max(1, steps))

    def finish(self, name: str) -> None:
        """A phase is over; its parent counts the step itself."""
        with self._guarded():
            self._phases.pop(name, None)

    def step(self, name: str, step: int) -> bool:
        """A step of a phase is done; False asks the library to stop."""
        with self._guarded():
            self._count(name, step)
        return self._failure is None and not self._held

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """One thread at a time; what is raised is kept, as it must not cross C++."""
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
        if self._failure is None and fraction >= self._told + SMALLEST_STEP:
            self._told = fraction
            self._report(fraction)

    def _fraction(self, name: str) -> float:
        phase = self._phases[name]
        inner = max(
            (self._fraction(n) for n, p in self._phases.items() if p.parent == name), default=0
        )
        return min(1.0, (phase.done + inner) / phase.steps)


@contextlib.contextmanager
def signals_held() -> Iterator[list[int]]:
    """Hold Ctrl-C and SIGTERM back: they are listed at once, and delivered when the body is left.

    Python would otherwise raise from the first line of a callback, before any `try` of ours.
    """
    held: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield held  # signals never reach Python code of other threads
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
    """A progress monitor class of this library: its base is the library's own."""

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
