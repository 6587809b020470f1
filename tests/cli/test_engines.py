"""`streamdiffvsr engines`: a good set is found again, a bad model leaves nothing behind."""

import json
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def model(parity_model, tmp_path) -> Path:
    """A copy of the recorded model for a test to break."""
    return Path(shutil.copytree(parity_model, tmp_path / "model"))


def without_a_part(model: Path) -> None:
    shutil.rmtree(model / "controlnet")


def without_weights(model: Path) -> None:
    (model / "unet" / WEIGHTS).unlink()


def with_broken_json(model: Path) -> None:
    (model / "unet/config.json").write_text('{"in_channels": 7,')


def with_a_wrong_shape(model: Path) -> None:
    change_one_tensor(model, lambda tensor: tensor[:1])


def with_nan_weights(model: Path) -> None:
    change_one_tensor(model, lambda tensor: np.full_like(tensor, np.nan))


def change_one_tensor(model: Path, change: Callable[[Any], Any]) -> None:
    path = model / "vae" / WEIGHTS
    tensors = load_file(path)
    name = next(name for name in sorted(tensors) if len(tensors[name]) > 1)
    tensors[name] = change(tensors[name])
    save_file(tensors, path)


def with_an_absurd_header(model: Path) -> None:
    """The header says it is exabytes long."""
    path = model / "unet" / WEIGHTS
    path.write_bytes(struct.pack("<Q", 2**62) + path.read_bytes()[8:])


def with_an_absurd_tensor(model: Path) -> None:
    """A header of its own, whose one tensor is exabytes long."""
    tensor = {"dtype": "F32", "shape": [2**58], "data_offsets": [0, 2**60]}
    header = json.dumps({"conv_in.weight": tensor}).encode()
    (model / "unet" / WEIGHTS).write_bytes(struct.pack("<Q", len(header)) + header)


def with_truncated_weights(model: Path) -> None:
    path = model / "unet" / WEIGHTS
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    "spoil",
    [
        without_a_part,
        without_weights,
        with_broken_json,
        with_a_wrong_shape,
        with_nan_weights,
        with_an_absurd_header,
        with_an_absurd_tensor,
        with_truncated_weights,
    ],
    ids=lambda spoil: spoil.__name__,
)
def test_a_bad_model(cli, model, tmp_path, spoil: Callable[[Path], None]):
    spoil(model)
    out = tmp_path / "engines"
    ran = cli("engines", "--model", model, "--size", "64x48", "--out", out, "--json")
    assert "unexpected" not in ran.error
    assert str(model) in ran.error
    assert ran.json == {"error": ran.error, "exit_code": 1}
    assert ran.code == 1
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"model"}


def test_a_file_is_no_model(cli, model):
    ran = cli("engines", "--model", model / "unet/config.json", "--size", "64x48")
    assert "is a file: a model is a folder" in ran.error
    assert ran.code == 2


def test_a_folder_of_something_else_is_not_replaced(cli, parity_model, tmp_path):
    (tmp_path / "letter.txt").write_text("dear reader")
    ran = cli("engines", "--model", parity_model, "--size", "64x48", "--out", tmp_path)
    assert "it is not empty and not an engine set" in ran.error
    assert ran.code == 1
    assert (tmp_path / "letter.txt").read_text() == "dear reader"


def test_a_set_that_is_there_is_found(cli, parity_model, parity_engines):
    arguments = ("engines", "--model", parity_model, "--size", "64x48", "--out", parity_engines)
    ran = cli(*arguments, "--precision", "fp32", "--device", "cpu", "--json")
    assert (ran.code, ran.err) == (0, "")
    (one,) = ran.json["engines"]
    assert one["path"] == str(parity_engines)
    assert (one["size"], one["precision"], one["backend"]) == ("64x48", "fp32", "onnxruntime")
    assert one["parity_error"] < 1e-3 and one["bytes"] > 1_000_000

    plain = cli(*arguments, "--precision", "fp32", "--device", "cpu")
    _, state, memory = plain.err.splitlines()
    assert state == f"up to date: {parity_engines}"
    assert re.match(r"memory: about \d+ MiB of \S+ .iB free \(engines \d+ MiB, ", memory)
    assert one["memory"]["total"] > one["bytes"]
    assert plain.out == f"64x48 fp32, onnxruntime on cpu: {parity_engines}\n"
