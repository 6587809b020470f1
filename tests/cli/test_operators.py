"""`streamdiffvsr engines operators`: the table of docs/engines.md, by anybody."""

from __future__ import annotations

import shutil
from collections import Counter

import pytest

pytest.importorskip("torch", reason="graphs are exported with the export extra")

from streamdiffvsr.building import debug
from streamdiffvsr.graphs.onnx_network import count_operators
from streamdiffvsr.graphs.spec import GRAPHS, onnx_file


@pytest.fixture
def ready(monkeypatch, parity_engines):
    """No export: the graphs of the recorded model are there, in float32."""
    orders = []

    def export(order, progress):
        orders.append(order)
        for path in (*parity_engines.glob("*.onnx"), *parity_engines.glob("*.data")):
            shutil.copy(path, order.stage)

    monkeypatch.setattr(debug, "export", export)
    return orders


def test_every_graph_is_told_as_exported_and_as_tensorrt_has_it(
    cli, ready, parity_model, parity_engines
):
    arguments = ("engines", "operators", "--model", parity_model, "--size", "64x48")
    ran = cli(*arguments, "--precision", "fp16", "--json")
    assert (ran.code, ran.err) == (0, "")
    assert [one["graph"] for one in ran.json["graphs"]] == list(GRAPHS)
    for one in ran.json["graphs"]:
        exported, given = Counter(one["exported"]), Counter(one["tensorrt"])
        assert exported == count_operators(parity_engines / onnx_file(one["graph"]))
        assert given == exported or one["graph"] == "denoise"
    denoise = next(one for one in ran.json["graphs"] if one["graph"] == "denoise")
    assert denoise["tensorrt"]["GroupNormalization"] == denoise["exported"]["InstanceNormalization"]
    (order,) = ready
    assert (order.key.precision, order.key.backend) == ("fp16", "onnxruntime")
    assert not order.stage.exists()

    lines = cli(*arguments, "--precision", "fp32").out.splitlines()
    assert len(lines) == len(GRAPHS) + 2
    row = next(line for line in lines if line.startswith("| `denoise`"))
    assert ", InstanceNormalization 88 to 0, " in row
    assert row.endswith(" GroupNormalization 0 to 88 |")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--precision", "fp8"), "of fp8 graphs are not counted"),
        (("--size", "0x0"), "0x0 is not a frame size"),
        (("--steps", "0"), "0 steps are not possible"),
    ],
)
def test_what_cannot_be_counted_is_one_line(cli, ready, arguments, told):
    ran = cli("engines", "operators", *arguments)
    assert ran.code == 2 and told in ran.error
    assert ready == []
