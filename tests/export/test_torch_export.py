"""Exported programs: the module's numbers from torch alone, and nothing in the file to spare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from streamdiffvsr.engines.torch_backend import read_module
from streamdiffvsr.export.correlation import AllPairs
from streamdiffvsr.export.graph_folder import TORCH, model_dims
from streamdiffvsr.export.graphs import build_graphs
from streamdiffvsr.export.model import Model, load_model
from streamdiffvsr.export.random_model import write_random_model
from streamdiffvsr.export.torch_export import SMALL_BYTES, export_program
from streamdiffvsr.graphs.program import PROGRAM, Program
from streamdiffvsr.graphs.schedule import step_table
from streamdiffvsr.graphs.spec import Geometry, GraphSpec, Precision, TensorSpec, graph_specs

GEOMETRY = Geometry((33, 42))
X = TensorSpec("x", (1, 4, 8, 8), "float32")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    blocks = {"num_encoder_blocks": [1, 1, 1], "num_decoder_blocks": [1, 1, 1]}
    return load_model(write_random_model(tmp_path_factory.mktemp("model"), vae=blocks))


def read(path: Path) -> tuple[Program, dict[str, Tensor]]:
    """Returns the program in a file, and its constants."""
    with safe_open(path, "pt") as file:
        program = Program.from_json(file.metadata()[PROGRAM])
        return program, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def exported(module: nn.Module, path: Path) -> tuple[Program, dict[str, Tensor], int]:
    """A module of one (1, 4, 8, 8) tensor."""
    spec = GraphSpec("one", (X,), (TensorSpec("y", (), "float32"),))
    peak = export_program(module.eval(), spec, path)
    given = torch.randn(X.shape)
    with torch.inference_mode():
        (result,) = read_module(path, spec, "cpu")(given)
        assert torch.equal(result, module(given))
    return *read(path), peak


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("prepare", "fp32"),
        pytest.param("decode", "fp32", marks=pytest.mark.slow),
        ("guide", "fp16"),
    ],
)
def test_a_graph_gives_its_modules_numbers(
    model: Model, tmp_path: Path, name: str, precision: Precision
) -> None:
    table = step_table(model.configs.scheduler, 4)
    module = build_graphs(model, GEOMETRY, precision, table, AllPairs)[name]
    spec = graph_specs(GEOMETRY, model_dims(model), precision)[name]
    export_program(module, spec, tmp_path / "p")
    given = [
        torch.randint(256, s.shape, dtype=torch.uint8)
        if s.dtype == "uint8"
        else torch.randn(s.shape).to(TORCH[s.dtype])
        for s in spec.inputs
    ]
    with torch.inference_mode():
        results = read_module(tmp_path / "p", spec, "cpu")(*given)
        expected = module(*given)
    assert [(tuple(r.shape), r.dtype) for r in results] == [
        (s.shape, TORCH[s.dtype]) for s in spec.outputs
    ]
    for result, wanted in zip(results, expected, strict=True):
        assert wanted.float().std() > 0.01, "a constant would prove nothing"
        torch.testing.assert_close(result, wanted, rtol=1e-5, atol=1e-5)


class Folds(nn.Module):
    """One small constant, one that is half of a weight, and one that is too large to be kept."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.unused = nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(9))
        self.wide = nn.Parameter(torch.randn(8))

    def forward(self, x: Tensor) -> Tensor:
        large = torch.arange(SMALL_BYTES, dtype=torch.float32, device=x.device)
        return x * (2 * self.scale.exp())[:, None, None] + self.wide[:4, None, None] + large.max()


def test_constants_are_folded_where_that_makes_no_larger_file(tmp_path: Path) -> None:
    program, constants, _ = exported(Folds(), tmp_path / "p")
    shapes = sorted(tuple(value.shape) for value in constants.values())
    assert shapes == [(4, 1, 1), (4, 1, 1)]
    names = [call.operator for call in program.calls]
    assert names.count("aten.arange.default") == 1 and names.count("aten.mul.Tensor") == 1
    assert len(names) == 5, "arange, its maximum, the product and two sums"
    assert (tmp_path / "p").stat().st_size < 4096


def test_no_device_is_written_down(tmp_path: Path) -> None:
    program, _, _ = exported(Folds(), tmp_path / "p")
    (arange,) = (call for call in program.calls if call.operator == "aten.arange.default")
    assert arange.keywords["device"] == {"device": ""}
    assert "cpu" not in program.to_json()


class Views(nn.Module):
    """`view` refuses what a channels-last convolution gives."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 6, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).view(1, 6, 64).softmax(2)


def test_activations_may_be_channels_last(tmp_path: Path) -> None:
    module = Views()
    exported(module, tmp_path / "p")
    spec = GraphSpec("one", (X,), (X,))
    given = torch.randn(X.shape)
    with torch.inference_mode():
        (result,) = read_module(tmp_path / "p", spec, "cpu")(
            given.to(memory_format=torch.channels_last)
        )
        torch.testing.assert_close(result, module(given))


class Chain(nn.Module):
    """Three tensors of 1 KiB at most: x is not counted, views are not, the first is given free."""

    def forward(self, x: Tensor) -> Tensor:
        first = x.exp()
        second = first.flatten(1).sin()
        third = second.reshape(1, 4, 8, 8) + first
        return third.cos().sum()


def test_the_memory_of_a_run_is_counted_on_storages(tmp_path: Path) -> None:
    *_, peak = exported(Chain(), tmp_path / "p")
    assert peak == 3 * 1024


def test_a_module_that_changes_a_tensor_in_place_is_refused(tmp_path: Path) -> None:
    class Changes(nn.Module):
        def forward(self, x: Tensor) -> Any:
            changed = x.exp()
            changed[:, 0] += 1
            return changed

    with pytest.raises(AssertionError, match="changes what it is given"):
        exported(Changes(), tmp_path / "p")
