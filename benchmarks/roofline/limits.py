"""Sets work against a device's rates: the least time that it can take, and the share reached.

Each operator takes at least as long as its arithmetic at the device's matrix rate, and at least as
long as its bytes at the device's bandwidth; the limit is the sum of the larger ones. (Williams,
Waterman, Patterson: Roofline, doi:10.1145/1498765.1498785.)

The rates are measured in the same run. Each is the best of several repetitions, as other work on
the machine can only slow a repetition down; the spread shows by how much. The bytes of a copy count
twice, as it reads and writes them. A CPU's rates are measured with as many threads as its engines
use: the product is one ONNX Runtime operator, run as an engine; numpy copies, one slice per thread.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from ...engines.interface import HostArray, kind_of, ordinal_of
from ...engines.onnxruntime_backend import OrtEngine, usable_cpus
from ...errors import StreamDiffVSRError
from ...graphs.spec import FLOAT, GraphSpec, Precision, TensorSpec
from .engine_work import FrameWork, engine_work
from .graph_work import GraphWork

OPSET = 20
IR_VERSION = 10  # of that opset; the newest of onnx may be too new for engines


def product_spec(side: int, precision: Precision) -> GraphSpec:
    """Returns the spec of `product` = `a` @ `b`, all (side, side)."""
    a, b, product = (
        TensorSpec(name, (side, side), FLOAT[precision]) for name in ("a", "b", "product")
    )
    return GraphSpec("product", (a, b), (product,))


def product_arrays(side: int, precision: Precision) -> dict[str, HostArray]:
    """Returns random tensors by name: with zeros, a GPU needs less power and runs too fast."""
    random = np.random.default_rng(0)
    dtype = FLOAT[precision]
    return {
        name: random.standard_normal((side, side), np.float32).astype(dtype)
        for name in ("a", "b", "product")
    }


def write_product(folder: Path, side: int, precision: Precision) -> Path:
    """Writes the graph as ONNX, and returns its path.

    Raises:
        StreamDiffVSRError: onnx is not installed.
    """
    try:
        import onnx
        from onnx import helper
    except ImportError as error:
        raise StreamDiffVSRError(
            "onnx is not installed", remedy="run pip install 'streamdiffvsr[export]'"
        ) from error
    spec = product_spec(side, precision)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(FLOAT[precision]))
    values = {t.name: helper.make_tensor_value_info(t.name, kind, t.shape) for t in spec.inputs}
    product = helper.make_tensor_value_info("product", kind, spec.outputs[0].shape)
    node = helper.make_node("MatMul", ["a", "b"], ["product"])
    graph = helper.make_graph([node], "product", [*values.values()], [product])
    opsets = [helper.make_opsetid("", OPSET)]
    path = folder / "product.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION), str(path))
    return path


@dataclass(frozen=True, slots=True)
class Sample:
    """The repetitions of one measurement, in its unit.

    Attributes:
        how: How it was measured, for the reader of the result.
    """

    values: tuple[float, ...]
    how: str

    @property
    def best(self) -> float:
        """The largest value."""
        return max(self.values)

    @property
    def spread(self) -> float:
        """The distance of the median below the best, as a share of the best."""
        return 1 - median(self.values) / self.best


def sample(seconds: Sequence[float], amount: float, how: str) -> Sample:
    """Returns the rates of an amount (in 1e9 operations or bytes) done in each of these times."""
    return Sample(tuple(amount / s for s in seconds), how)


@dataclass(frozen=True, slots=True)
class Rates:
    """The measured rates of a device; None where one could not be measured, and `how` says why.

    Attributes:
        gflops: The GFLOP/s of a matrix product at `precision`; a multiply-add is 2 FLOP.
        copy_gbps: The GB/s of a copy, read and written bytes together.
        how: How it was measured, and how far the median repetition was below the best.
    """

    gflops: float | None
    copy_gbps: float | None
    precision: Precision
    how: str

    def to_json(self) -> dict[str, Any]:
        """Returns the `rates` object of a result."""
        return {
            "gflops": None if self.gflops is None else round(self.gflops, 1),
            "copy_gbps": None if self.copy_gbps is None else round(self.copy_gbps, 2),
            "precision": self.precision,
            "how": self.how,
        }


def measure_rates(device: str, precision: Precision) -> Rates:
    """Measures the rates of "cpu", "cuda" or "cuda:1", which takes a few seconds.

    It never fails: a rate that cannot be measured is None, and `how` has the reason.
    """
    if kind_of(device) == "cuda":
        from .rates_cuda import copy_rate as copy_on_gpu
        from .rates_cuda import matrix_rate as matrix_on_gpu

        ordinal = ordinal_of(device)
        products, copies = matrix_on_gpu(precision, ordinal), copy_on_gpu(ordinal)
    else:
        products, copies = matrix_rate(precision), copy_rate()
    return Rates(
        gflops=_best(products),
        copy_gbps=_best(copies),
        precision=precision,
        how="; ".join(_described(result) for result in (products, copies)),
    )


def _best(result: Sample | str) -> float | None:
    return None if isinstance(result, str) else result.best


def _described(result: Sample | str) -> str:
    if isinstance(result, str):
        return result
    count = len(result.values)
    return f"{result.how}, best of {count} (median {100 * result.spread:.0f} % below)"


Result = dict[str, Any]


def limit_ms(work: GraphWork, gflops: float, gbps: float) -> tuple[float, str]:
    """Returns the least time of one run in ms, and what limits most of it: compute or memory."""
    compute = memory = 0.0
    for one, count in work.operators.items():
        flops_ms, bytes_ms = 1e-6 * one.flops / gflops, 1e-6 * one.nbytes / gbps
        if flops_ms >= bytes_ms:
            compute += count * flops_ms
        else:
            memory += count * bytes_ms
    return compute + memory, "compute" if compute >= memory else "memory"


def roofline(
    source: Path | FrameWork,
    stage_p50_ms: Mapping[str, float],
    rates: Rates,
    frame_p50_ms: float | None = None,
) -> Result:
    """Returns the `roofline` object of a result.

    Args:
        source: The folder of an engine set, or its work if that is known already.
        stage_p50_ms: Measured milliseconds of a frame by graph, all its tiles together. Steps may
            be separate (`denoise 1`, `denoise 2`, ...); other stages (`upload`) are ignored.
        rates: The rates of the device that ran them, at the engines' precision.
        frame_p50_ms: Measured milliseconds of a frame; by default the sum of its graphs.

    Returns:
        For each graph and the frame: GFLOP, GB, limit and share; None where it is unknown.

    Raises:
        StreamDiffVSRError: The work cannot be counted, see `engine_work`.
    """
    frame = source if isinstance(source, FrameWork) else engine_work(source)
    measured = _by_graph(frame, stage_p50_ms)
    graphs = {
        name: {"runs": frame.runs[name], **_entry(work, frame.runs[name], measured[name], rates)}
        for name, work in frame.graphs.items()
    }
    limits = [entry["limit_ms"] for entry in graphs.values()]
    limit = None if None in limits else round(sum(limits), 4)
    if frame_p50_ms is None and None not in measured.values():
        frame_p50_ms = sum(time for time in measured.values() if time is not None)
    return {
        "measured": rates.gflops is not None and rates.copy_gbps is not None,
        "rates": rates.to_json(),
        "graphs": graphs,
        "frame": {
            "gflop": _round(1e-9 * frame.flops),
            "gbyte": _round(1e-9 * frame.nbytes),
            "limit_ms": limit,
            "measured_ms": _round(frame_p50_ms),
            "share": _share(limit, frame_p50_ms),
        },
    }


def _by_graph(frame: FrameWork, stages: Mapping[str, float]) -> dict[str, float | None]:
    """Returns the measured ms of each graph: its own stage, or the sum of its steps."""
    measured: dict[str, float | None] = {}
    for name in frame.graphs:
        parts = [ms for stage, ms in stages.items() if re.fullmatch(rf"{name}( \d+)?", stage)]
        measured[name] = sum(parts) if parts else None
    return measured


def _entry(work: GraphWork, runs: int, measured: float | None, rates: Rates) -> Result:
    limit, bound = None, None
    if rates.gflops is not None and rates.copy_gbps is not None:
        one, bound = limit_ms(work, rates.gflops, rates.copy_gbps)
        limit = round(runs * one, 4)
    return {
        "gflop": _round(1e-9 * runs * work.flops),
        "gbyte": _round(1e-9 * runs * work.nbytes),
        "limit_ms": limit,
        "measured_ms": _round(measured),
        "share": _share(limit, measured),
        "bound": bound,
    }


def _share(limit: float | None, measured: float | None) -> float | None:
    return round(limit / measured, 4) if limit is not None and measured else None


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


SIDE = {"fp32": 1024, "fp16": 512}  # short, so that some repetitions are undisturbed
COPY_BYTES = 256 * 2**20  # several times the caches of a large server
PRODUCTS, COPIES, WARM_UP = 60, 15, 2


def matrix_rate(precision: Precision) -> Sample | str:
    """Returns the GFLOP/s of a square matrix product, or why it could not be measured."""
    side = SIDE[precision]
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = write_product(Path(folder), side, precision)
            engine = OrtEngine(path, product_spec(side, precision))
        bound = engine.bind(product_arrays(side, precision))
    except (StreamDiffVSRError, ImportError) as error:
        return f"no matrix rate: {error}"
    times = _times(bound.enqueue, PRODUCTS)
    how = f"matrix product {side}x{side} {precision} by onnxruntime, {usable_cpus()} threads"
    return sample(times, 2e-9 * side**3, how)


def copy_rate() -> Sample | str:
    """Returns the GB/s of a copy in host memory."""
    threads = usable_cpus()
    source = np.ones(COPY_BYTES, np.uint8)  # written, so that its pages are in memory
    target = np.full_like(source, 2)
    pairs = list(zip(np.array_split(target, threads), np.array_split(source, threads), strict=True))
    with ThreadPoolExecutor(threads) as pool:
        times = _times(lambda: list(pool.map(lambda pair: np.copyto(*pair), pairs)), COPIES)
    how = f"copy of {COPY_BYTES // 2**20} MiB by numpy, {threads} threads, read and written"
    return sample(times, 2e-9 * COPY_BYTES, how)


def _times(run: Callable[[], object], repetitions: int) -> list[float]:
    """Returns the seconds of each run after a warm-up."""
    for _ in range(WARM_UP):
        run()
    times = []
    for _ in range(repetitions):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return times
