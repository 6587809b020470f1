"""Work that is counted from ONNX files is what anybody would count by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("onnx", reason="counting needs the export extra")

import onnx

from streamdiffvsr.benchmarks.roofline.graph_work import GraphWork, count_file
from streamdiffvsr.errors import StreamDiffVSRError
from streamdiffvsr.tests.benchmarks.roofline.networks import node, number, save, value, weight


def test_a_convolution(tmp_path: Path) -> None:
    path = save(
        tmp_path,
        [node("Conv", "x w", "y", group=2, strides=[2, 2], pads=[1, 1, 1, 1])],
        {"x": (1, 8, 10, 12)},
        {"y": (1, 6, 5, 6)},
        [weight("w", (6, 4, 3, 3))],
    )
    work = count_file(path)
    assert work.flops == 2 * (6 * 5 * 6) * (4 * 3 * 3)
    assert work.nbytes == 4 * (8 * 10 * 12 + 6 * 4 * 3 * 3 + 6 * 5 * 6)


def test_a_transposed_convolution(tmp_path: Path) -> None:
    path = save(
        tmp_path,
        [node("ConvTranspose", "x w", "y", strides=[2, 2])],
        {"x": (1, 8, 5, 6)},
        {"y": (1, 3, 10, 12)},
        [weight("w", (8, 3, 2, 2))],
    )
    assert count_file(path).flops == 2 * (8 * 5 * 6) * (3 * 2 * 2)


def test_products(tmp_path: Path) -> None:
    nodes = [node("MatMul", "a b", "c"), node("Gemm", "d w bias", "e", transA=1)]
    path = save(
        tmp_path,
        nodes,
        {"a": (2, 3, 4, 5), "b": (2, 3, 5, 6), "d": (7, 8)},
        {"c": (2, 3, 4, 6), "e": (8, 9)},
        [weight("w", (7, 9)), weight("bias", (9,))],
    )
    work = count_file(path)
    assert work.flops == 2 * (2 * 3 * 4 * 5 * 6) + 2 * (8 * 7 * 9)
    assert work.by_kind()["product"][0] == 2


def test_what_is_fused_costs_nothing_and_shapes_are_found(tmp_path: Path) -> None:
    nodes = [
        node("Relu", "x", "a"),
        node("Transpose", "a", "b", perm=[0, 2, 1]),
        node("Concat", "b b", "c", axis=2),
        node("MatMul", "x c", "y"),  # its second input's shape is nowhere in the file
    ]
    path = save(tmp_path, nodes, {"x": (1, 3, 4)}, {"y": (1, 3, 6)})
    work = count_file(path)
    assert work.by_kind() == {"product": (1, 2 * 3 * 6 * 4, 4 * (12 + 24 + 18))}


def test_the_scores_of_attention_stay_in_the_processor(tmp_path: Path) -> None:
    nodes = [
        node("MatMul", "q k", "scores"),
        node("Mul", "scores scale", "scaled"),
        node("Softmax", "scaled", "weights"),
        node("MatMul", "weights v", "y"),
    ]
    shapes = {"q": (8, 100, 16), "k": (8, 16, 50), "v": (8, 50, 16)}
    path = save(tmp_path, nodes, shapes, {"y": (8, 100, 16)}, [weight("scale", (1,))])
    flops = 2 * (2 * 8 * 100 * 50 * 16)
    nbytes = 4 * 8 * (100 * 16 + 16 * 50 + 50 * 16 + 100 * 16)
    assert count_file(path).by_kind() == {"attention": (1, flops, nbytes)}


def test_a_softmax_by_itself_is_no_attention(tmp_path: Path) -> None:
    nodes = [node("MatMul", "a b", "c"), node("Softmax", "c", "y")]
    path = save(tmp_path, nodes, {"a": (4, 5), "b": (5, 6)}, {"y": (4, 6)})
    assert set(count_file(path).by_kind()) == {"product", "norm"}


def test_a_gather_reads_no_more_than_its_table(tmp_path: Path) -> None:
    nodes = [node("Gather", "t i1", "a"), node("Gather", "t i2", "b")]
    shapes = {"t": (100, 8), "i1": (10,), "i2": (1000,)}
    path = save(tmp_path, nodes, shapes, {"a": (10, 8), "b": (1000, 8)})
    few, many = 8 * 10 + 2 * 4 * 80, 8 * 1000 + 4 * 800 + 4 * 8000
    assert count_file(path).by_kind() == {"gather": (2, 0, few + many)}


def test_a_loop_counts_as_often_as_it_runs(tmp_path: Path) -> None:
    body = onnx.helper.make_graph(
        [node("MatMul", "state w", "next"), node("Identity", "on", "still")],
        "body",
        [
            value("turn", (), onnx.TensorProto.INT64),
            value("on", (), onnx.TensorProto.BOOL),
            value("state", (4, 4)),
        ],
        [value("still", (), onnx.TensorProto.BOOL), value("next", (4, 4))],
    )
    loop = onnx.helper.make_node("Loop", ["turns", "", "x"], ["y"], body=body)
    weights = [weight("w", (4, 4)), number("turns", 5)]
    path = save(tmp_path, [loop], {"x": (4, 4)}, {"y": (4, 4)}, weights)
    assert count_file(path).flops == 5 * 2 * 4**3


def test_weights_need_not_be_there(tmp_path: Path) -> None:
    nodes, shapes = [node("MatMul", "x w", "y")], {"x": (4, 512)}
    path = save(tmp_path, nodes, shapes, {"y": (4, 512)}, [weight("w", (512, 512))])
    before = count_file(path)
    model = onnx.load(str(path))
    onnx.save(model, str(path), save_as_external_data=True, location="graph.data")
    (tmp_path / "graph.data").unlink()
    assert count_file(path) == before


def test_json_and_back(tmp_path: Path) -> None:
    nodes = [node("MatMul", "a a", "b"), node("MatMul", "b b", "c"), node("Softmax", "c", "y")]
    work = count_file(save(tmp_path, nodes, {"a": (4, 4)}, {"y": (4, 4)}))
    assert GraphWork.from_json(work.to_json()) == work
    assert work.by_kind()["product"][0] == 2


@pytest.mark.parametrize(
    ("op", "shape", "why"),
    [
        ("Einsum", (4, 4), "the operator Einsum is not known"),
        ("MatMul", ("rows", 4), "has no static shape"),
    ],
)
def test_what_cannot_be_counted_is_told(
    tmp_path: Path, op: str, shape: tuple[int | str, ...], why: str
) -> None:
    attributes = {"equation": "ij,jk->ik"} if op == "Einsum" else {}
    path = save(
        tmp_path, [node(op, "x w", "y", **attributes)], {"x": shape, "w": (4, 4)}, {"y": shape}
    )
    with pytest.raises(StreamDiffVSRError, match=f"graph.onnx cannot be counted: .*{why}"):
        count_file(path)


def test_files_that_are_no_graphs(tmp_path: Path) -> None:
    with pytest.raises(StreamDiffVSRError, match="No such file"):
        count_file(tmp_path / "missing.onnx")
    (tmp_path / "text.onnx").write_text("not a graph")
    with pytest.raises(StreamDiffVSRError, match="is not an ONNX graph"):
        count_file(tmp_path / "text.onnx")


def test_without_onnx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(StreamDiffVSRError, match=r"onnx is not installed; run pip .*\[export\]"):
        count_file(tmp_path / "any.onnx")
