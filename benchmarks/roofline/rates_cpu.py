"""Measures the rates of a CPU, with as many threads as its engines use.

The product is one ONNX Runtime operator, run as an engine; numpy copies, one slice per thread.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ...engines.onnxruntime_backend import OrtEngine, usable_cpus
from ...errors import StreamDiffVSRError
from ...graphs.spec import Precision
from .product import Sample, product_arrays, product_spec, sample, write_product

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
