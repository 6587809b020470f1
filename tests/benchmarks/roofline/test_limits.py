"""Limits from work and rates, and the object that a result holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import streamdiffvsr.benchmarks
from streamdiffvsr.benchmarks import machine
from streamdiffvsr.benchmarks.report.files import violation
from streamdiffvsr.benchmarks.roofline.engine_work import FrameWork
from streamdiffvsr.benchmarks.roofline.graph_work import GraphWork, Work
from streamdiffvsr.benchmarks.roofline.limits import Rates, limit_ms, measure_rates, roofline
from streamdiffvsr.engines.onnxruntime_backend import usable_cpus

RATES = Rates(100.0, 10.0, "fp32", "made up")
HEAVY = Work("conv", 10**9, 10**6)  # 10 ms of arithmetic, 0.1 of memory
WIDE = Work("norm", 0, 5 * 10**7)  # 5 ms of memory


@pytest.fixture
def frame() -> FrameWork:
    graphs = {"flow": GraphWork({WIDE: 1}), "denoise": GraphWork({HEAVY: 2, WIDE: 1})}
    return FrameWork(graphs, {"flow": 1, "denoise": 4}, "fp32")


def test_each_operator_waits_for_the_slower_of_both() -> None:
    assert limit_ms(GraphWork({HEAVY: 2, WIDE: 1}), 100.0, 10.0) == (pytest.approx(25), "compute")
    assert limit_ms(GraphWork({WIDE: 3}), 100.0, 10.0) == (pytest.approx(15), "memory")
    assert limit_ms(GraphWork({HEAVY: 1}), 1e6, 1.0) == (pytest.approx(1), "memory")


def test_steps_count_together_and_copies_not(frame: FrameWork) -> None:
    stages = {"upload": 9.0, "flow": 10.0, "denoise 1": 60.0, "denoise 2": 50.0, "denoise 3": 45.0}
    found = roofline(frame, stages | {"denoise 4": 45.0}, RATES)
    assert found["graphs"]["denoise"] == {
        "runs": 4,
        "gflop": 8.0,
        "gbyte": 0.208,
        "limit_ms": 100.0,
        "measured_ms": 200.0,
        "share": 0.5,
        "bound": "compute",
    }
    assert found["graphs"]["flow"]["share"] == 0.5
    assert found["frame"] == {
        "gflop": 8.0,
        "gbyte": 0.258,
        "limit_ms": 105.0,
        "measured_ms": 210.0,
        "share": 0.5,
    }
    assert roofline(frame, stages, RATES, 420.0)["frame"]["share"] == 0.25
    assert found["measured"] and conforms(found)


def test_what_was_not_measured_is_null(frame: FrameWork) -> None:
    found = roofline(frame, {"denoise": 200.0}, RATES)
    assert found["graphs"]["flow"]["limit_ms"] == 5.0
    assert found["graphs"]["flow"]["share"] is found["frame"]["share"] is None
    assert conforms(found)


def test_without_rates_the_work_is_still_told(frame: FrameWork) -> None:
    found = roofline(frame, {"flow": 1.0}, Rates(None, 10.0, "fp16", "no matrix rate: no GPU"))
    assert not found["measured"] and found["rates"]["how"] == "no matrix rate: no GPU"
    assert found["frame"]["gflop"] == 8.0
    assert found["frame"]["limit_ms"] is found["graphs"]["flow"]["share"] is None


def conforms(found: dict[str, Any]) -> bool:
    """Returns whether it is a roofline by `result_schema.json`."""
    folder = Path(str(streamdiffvsr.benchmarks.__file__)).parent
    schema = json.loads((folder / "result_schema.json").read_text(encoding="utf-8"))
    fault = violation(found, schema["$defs"]["roofline"] | {"$defs": schema["$defs"]})
    assert fault is None
    return True


def test_the_cpu_is_measured_with_the_engines_threads() -> None:
    pytest.importorskip("onnx", reason="the product is written as ONNX")
    from streamdiffvsr.benchmarks.roofline import limits

    product = limits.matrix_rate("fp32")
    assert not isinstance(product, str)
    assert len(product.values) == limits.PRODUCTS and product.best == max(product.values)
    assert 0 <= product.spread < 1
    assert f"{usable_cpus()} threads" in product.how


def test_a_gpu_that_is_not_there_has_no_rates_and_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    from streamdiffvsr.benchmarks.roofline import rates_cuda

    monkeypatch.setattr(rates_cuda, "why_no_gpu", lambda ordinal: "no NVIDIA driver answers")
    found = measure_rates("cuda", "fp16")
    assert found.gflops is found.copy_gbps is None
    assert found.how == (
        "no matrix rate: no NVIDIA driver answers; no copy bandwidth: no NVIDIA driver answers"
    )


def test_the_clocks_are_those_of_the_gpu_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver's tool numbers GPUs by their place on the bus, CUDA as it likes."""
    rows = [
        ["00000000:01:00.0", "300", "2500", "450.00", "20.1", "35"],
        ["00000000:41:00.0", "210", "1800", "[N/A]", "18.0", "30"],
    ]
    addresses = {0: "0000:41:00.0", 1: "0000:01:00.0"}
    monkeypatch.setattr(machine, "ask_driver", lambda fields: rows)
    monkeypatch.setattr(machine, "gpu_address", lambda ordinal: addresses.get(ordinal, ""))
    power = machine.describe_power(0) or {}
    assert (power["gpu_clock_mhz"], "gpu_power_limit_w" in power) == (210.0, False)
    assert (machine.describe_power(1) or {})["gpu_power_limit_w"] == 450.0
    assert "gpu_clock_mhz" not in (machine.describe_power(2) or {})  # which of them, nobody says
    del rows[1]
    assert (machine.describe_power(2) or {})["gpu_clock_mhz"] == 300.0


def test_where_onnx_is_missing_only_the_product_is(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from streamdiffvsr.benchmarks.roofline import limits

    monkeypatch.setitem(sys.modules, "onnx", None)
    found = limits.matrix_rate("fp32")
    assert isinstance(found, str) and "onnx is not installed" in found
