"""The graphs' FLOPs, counted from ONNX, are those that torch counts while it runs the modules."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="engines are built with the export extra")

import torch
from torch.utils.flop_counter import FlopCounterMode

from streamdiffvsr.benchmarks.roofline.engine_work import (
    FrameWork,
    Traced,
    configs_of,
    engine_work,
    find_local,
    trace_work,
)
from streamdiffvsr.export.graph_folder import CORRELATIONS, example_inputs, model_dims
from streamdiffvsr.export.graphs import build_graphs
from streamdiffvsr.export.model import load_model
from streamdiffvsr.graphs.plan import make_plan
from streamdiffvsr.graphs.schedule import step_table
from streamdiffvsr.graphs.spec import GRAPHS, graph_specs
from streamdiffvsr.tests.conftest import PARITY_SIZE

pytestmark = pytest.mark.slow  # minutes together, on two cores

CHEAP = ("prepare", "guide")


@pytest.fixture(scope="module")
def counted(parity_engines: Path) -> FrameWork:
    return engine_work(parity_engines)


def test_flops_are_those_of_torchs_own_counter(counted: FrameWork, parity_model: Path) -> None:
    model, plan = load_model(parity_model), make_plan(PARITY_SIZE)
    table, correlation = step_table(model.configs.scheduler, 4), CORRELATIONS[plan.correlation]
    modules = build_graphs(model, plan.geometry, "fp32", table, correlation)
    specs = graph_specs(plan.geometry, model_dims(model), "fp32")
    for name in GRAPHS:
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            modules[name](*example_inputs(specs[name]))
        assert counted.graphs[name].flops == counter.get_total_flops(), name


def test_a_frame_is_four_steps_and_one_of_all_else(counted: FrameWork) -> None:
    assert counted.runs == {name: 4 if name == "denoise" else 1 for name in GRAPHS}
    each = {name: work.flops for name, work in counted.graphs.items()}
    assert counted.flops == sum(each.values()) + 3 * each["denoise"]


def check_traced(counted: FrameWork, model: Path, names: tuple[str, ...]) -> None:
    configs, tokens = configs_of(find_local(str(model)))
    traced = Traced(configs, make_plan(PARITY_SIZE), "fp32", prompt_tokens=tokens)
    for name, work in trace_work(traced, names):
        assert work == counted.graphs[name], name


def test_graphs_without_weights_have_the_same_work(counted: FrameWork, parity_model: Path) -> None:
    check_traced(counted, parity_model, CHEAP)


@pytest.mark.slow
def test_so_have_the_large_ones(counted: FrameWork, parity_model: Path) -> None:
    check_traced(counted, parity_model, tuple(n for n in GRAPHS if n not in CHEAP))
