"""A fault planted in one layer of an engine is found there, and a healthy engine has none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

pytest.importorskip("polygraphy", reason="layers are read with the export extra")

from onnx import numpy_helper

from streamdiffvsr.engines import divergence
from streamdiffvsr.engines.divergence import (
    Divergence,
    LayeredGraph,
    Probe,
    find_divergences,
    pair_layers,
)
from streamdiffvsr.engines.manifest import read_manifest
from streamdiffvsr.engines.registry import BACKENDS
from streamdiffvsr.graphs.spec import onnx_file
from streamdiffvsr.tests.engines.graphs import copy_graph

GRAPH = "decode"


def probe(engines: Path, folder: Path) -> Probe:
    manifest = read_manifest(engines)
    spec = manifest.graphs.specs()[GRAPH]
    draw = np.random.default_rng(0)
    inputs: dict[str, Any] = {t.name: draw.normal(size=t.shape) for t in spec.inputs}
    path = folder / onnx_file(GRAPH)
    return Probe(BACKENDS["onnxruntime"], manifest.key, path, spec, inputs, "cpu")


@pytest.fixture
def folders(parity_engines: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Twice the same graph; a test may change the second."""
    for name in ("reference", "engine"):
        (tmp_path / name).mkdir()
        copy_graph(parity_engines, GRAPH, tmp_path / name)
    return tmp_path / "reference", tmp_path / "engine"


def change_a_weight(path: Path, change: Any) -> str:
    """Change the weight of a convolution in the middle; returns the node's name."""
    model = onnx.load(str(path))
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    convolutions = [n for n in model.graph.node if n.op_type == "Conv" and n.input[1] in weights]
    node = convolutions[len(convolutions) // 2]
    users = [n for n in model.graph.node if node.input[1] in n.input]
    assert users == [node]  # the fault is that of one layer alone
    tensor = weights[node.input[1]]
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), tensor.name))
    path.with_name(f"{path.name}.data").unlink(missing_ok=True)
    onnx.save(model, str(path))
    return str(node.name)


def compare(engines: Path, folders: tuple[Path, Path], tolerance: float) -> list[Divergence]:
    return find_divergences(*(probe(engines, folder) for folder in folders), tolerance)


def a_nan(weight: Any) -> Any:
    weight = weight.copy()
    weight.flat[weight.size // 2] = np.nan
    return weight


@pytest.mark.parametrize(
    ("change", "told"), [(a_nan, "not finite"), (lambda weight: 3 * weight, "error ")]
)
def test_the_changed_layer_is_named_first(
    parity_engines: Path, folders: tuple[Path, Path], change: Any, told: str
) -> None:
    changed = change_a_weight(folders[1] / onnx_file(GRAPH), change)
    found = compare(parity_engines, folders, 1e-4)
    assert found[0].layer.name == changed and found[0].layer.op == "Conv"
    assert found[0].described.startswith(told)
    assert len(found) > 1  # it spreads
    assert [one.place for one in found] == sorted(one.place for one in found)
    assert 1 < found[0].place < found[0].count


def test_an_equal_engine_has_no_such_layer_however_it_is_read(
    parity_engines: Path, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert compare(parity_engines, folders, 0.0) == []
    changed = change_a_weight(folders[1] / onnx_file(GRAPH), lambda weight: 3 * weight)
    whole = compare(parity_engines, folders, 1e-4)
    runs: list[str] = []
    monkeypatch.setattr(divergence, "AT_ONCE_BYTES", 2**25)
    parts = find_divergences(
        *(probe(parity_engines, folder) for folder in folders), 1e-4, runs.append
    )
    assert len(runs) > 2
    assert [one.layer for one in parts] == [one.layer for one in whole]
    assert parts[0].layer.name == changed


def small_graph(path: Path) -> Path:
    """x -> Relu a -> Cast -> Sqrt c -> out, and a -> Neg d, which c is added to by a Mul with 0."""
    value = onnx.helper.make_tensor_value_info
    real = onnx.TensorProto.FLOAT
    nodes = [
        onnx.helper.make_node(op, inputs, [output], output)
        for op, inputs, output in (
            ("Relu", ["x"], "a"),
            ("Neg", ["a"], "d"),
            ("Cast", ["a"], "b"),
            ("Mul", ["d", "zero"], "e"),
            ("Sqrt", ["b"], "c"),
            ("Add", ["c", "e"], "out"),
        )
    ]
    nodes[2].attribute.append(onnx.helper.make_attribute("to", real))
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [value("x", real, [2])],
        [value("out", real, [2])],
        [numpy_helper.from_array(np.zeros(2, np.float32), "zero")],
        value_info=[value(name, real, [2]) for name in "abcde"],
    )
    onnx.save(onnx.helper.make_model(graph), str(path))
    return path


def test_only_what_spreads_to_an_output_counts(tmp_path: Path) -> None:
    graph = LayeredGraph(small_graph(tmp_path / "g.onnx"))
    paired = {layer.tensor.name for layer in graph.layers}
    assert paired == {"a", "d", "e", "c", "out"}  # a conversion is no layer
    assert graph.reaching({"a", "c", "out"}, paired) == {"a", "c", "out"}  # through it, though
    assert graph.reaching({"a", "d"}, paired) == set()  # multiplied by 0
    assert graph.reaching({"d", "out"}, paired) == {"out"}


def test_layers_of_two_precisions_find_each_other(tmp_path: Path) -> None:
    one = LayeredGraph(small_graph(tmp_path / "g.onnx")).layers
    renamed = [layer for layer in reversed(one)][::-1]
    assert pair_layers(one, renamed) == list(zip(one, one, strict=True))
    assert pair_layers(one, one[:2] + one[3:]) == [(x, x) for x in one if x is not one[2]]
