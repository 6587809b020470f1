"""Weights files: what a broken or hostile one is answered with, and what is tolerated."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from streamdiffvsr.errors import StreamDiffVSRError
from streamdiffvsr.export.weight_files import DIFFUSERS_STEM, WeightFiles, find_weights
from streamdiffvsr.export.weights import load_into, read_pickle, read_safetensors, read_weights

EXABYTE = 10**18


def refusal(call: Any, *args: Any) -> str:
    with pytest.raises(StreamDiffVSRError) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def safetensors(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    start = (len(text) if length is None else length).to_bytes(8, "little")
    path.write_bytes(start + text + data)
    return path


def entry(shape: Any, offsets: Any, dtype: Any = "F32") -> dict[str, Any]:
    return {"w": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


@pytest.mark.parametrize(
    ("header", "length", "why"),
    [
        (entry([EXABYTE], [0, 4 * EXABYTE]), None, "tensor w claims 4e\\+18 bytes"),
        (entry([EXABYTE], [0, 8]), None, "tensor w claims 4e\\+18 bytes at 0-8"),
        (entry([2], [4, 12]), None, "tensor w claims 8 bytes at 4-12 of 8 in the file"),
        (entry([2], [8, 0]), None, "tensor w claims"),
        (entry([-2], [0, 8]), None, "tensor w has no valid shape"),
        (entry([2.0], [0, 8]), None, "tensor w has no valid shape"),
        (entry([1] * 100, [0, 4]), None, "tensor w has no valid shape"),
        (entry(2, [0, 8]), None, "tensor w has no valid shape"),
        (entry([2], [0]), None, "tensor w has no dtype, shape and offsets"),
        (entry([2], [0, 8], "F8_E4M3"), None, "tensor w is F8_E4M3; supported: F64, F32, F16"),
        ({"w": 1}, None, "tensor w has no dtype"),
        ([], None, "lists no tensors"),
        (b"{", None, "header is not JSON"),
        (b"[" * 50_000, None, "header is not JSON"),
        ({}, EXABYTE, "cut off"),
        (b"", 0, "header is not JSON"),
    ],
)
def test_a_lying_header_is_refused_before_allocation(
    tmp_path: Path, header: Any, length: int | None, why: str
) -> None:
    path = safetensors(tmp_path / "w.safetensors", header, bytes(8), length)
    with pytest.raises(StreamDiffVSRError, match=f"w.safetensors: .*{why}"):
        read_safetensors(path)


def test_a_header_above_the_cap_is_refused(tmp_path: Path) -> None:
    path = safetensors(tmp_path / "w.safetensors", b"{}", length=10_000_001)
    os.truncate(path, 20_000_000)
    assert "its header has 10000001 bytes" in refusal(read_safetensors, path)


@pytest.mark.parametrize("size", [0, 7])
def test_a_file_shorter_than_its_length_field(tmp_path: Path, size: int) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(bytes(size))
    assert "cut off" in refusal(read_safetensors, path)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.ones(3), "b": torch.ones(2, 2)}, path)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        assert "w.safetensors" in refusal(read_safetensors, path)


def test_a_git_lfs_pointer_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "Git LFS pointer" in refusal(read_safetensors, path)


def test_overlapping_tensors_are_left_to_the_library(tmp_path: Path) -> None:
    header = entry([2], [0, 8]) | {"v": entry([2], [0, 8])["w"]}
    path = safetensors(tmp_path / "w.safetensors", header, bytes(8))
    assert "w.safetensors" in refusal(read_safetensors, path)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_values_that_are_not_finite_are_named(
    tmp_path: Path, bad: float, dtype: torch.dtype
) -> None:
    path = tmp_path / "w.safetensors"
    damaged = torch.zeros(3, 4, dtype=dtype)
    damaged[1, 2] = bad
    save_file({"fine": torch.zeros(2, dtype=dtype), "up.damaged": damaged}, path)
    assert "up.damaged holds NaN or infinity" in refusal(read_safetensors, path)
    torch.save({"fine": torch.zeros(2), "up.damaged": damaged}, tmp_path / "w.pth")
    assert "up.damaged holds NaN or infinity" in refusal(read_pickle, tmp_path / "w.pth")


def test_halves_become_float32_and_integers_stay(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    values = torch.tensor([1.0, -0.5])
    tensors = {"h": values.half(), "b": values.bfloat16(), "d": values.double()}
    save_file({**tensors, "n": torch.tensor(3), "none": torch.zeros(0)}, path)
    state = read_safetensors(path)
    assert {state[k].dtype for k in "hbd"} == {torch.float32}
    assert all(torch.equal(state[k], values) for k in "hbd")
    assert state["n"].dtype == torch.int64
    assert state["none"].shape == (0,)


def test_what_was_read_does_not_hang_on_the_file(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"w": torch.ones(1 << 16)}, path)
    state = read_safetensors(path)
    with path.open("r+b") as file:  # a mapping would see this, and die of a file cut short
        file.seek(-4, os.SEEK_END)
        file.write(bytes(4))
    assert state["w"].sum() == 1 << 16


class _Hostile:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("executed",)


def test_a_pickle_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"w": _Hostile()}, "w.pth")
    assert "holds more than tensors" in refusal(read_pickle, Path("w.pth"))
    Path("raw.bin").write_bytes(pickle.dumps({"w": _Hostile()}, protocol=2))
    assert "raw.bin" in refusal(read_pickle, Path("raw.bin"))
    assert not (tmp_path / "executed").exists()


def test_a_pickle_that_claims_more_than_it_has(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"w": torch.zeros(1).expand(10**12)}, path)
    assert "its tensors claim 4e+12 bytes" in refusal(read_pickle, path)


@pytest.mark.parametrize(
    ("content", "why"),
    [([1, 2], "no state dict"), ({"a": 1}, "a is not a tensor"), ({}, "no state dict")],
)
def test_pickles_of_other_things(tmp_path: Path, content: Any, why: str) -> None:
    torch.save(content, tmp_path / "w.pth")
    assert why in refusal(read_pickle, tmp_path / "w.pth")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02", b"<html>"])
def test_broken_pickles(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    assert "cannot read" in refusal(read_pickle, tmp_path / "w.pth")


def test_a_state_dict_may_be_wrapped(tmp_path: Path) -> None:
    torch.save({"state_dict": {"w": torch.ones(1)}, "epoch": 3}, tmp_path / "w.pth")
    assert set(read_pickle(tmp_path / "w.pth")) == {"w"}


def _touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_text("{}")


def test_safetensors_before_half_precision_before_pickles(tmp_path: Path) -> None:
    order = [f"{DIFFUSERS_STEM}{end}" for end in (".safetensors", ".fp16.safetensors", ".bin")]
    _touch(tmp_path, *order)
    for name in order:
        assert find_weights(tmp_path).files == (tmp_path / name,)
        (tmp_path / name).unlink()
    assert f"looked for {DIFFUSERS_STEM}.safetensors" in refusal(find_weights, tmp_path)


def _sharded(folder: Path, weight_map: dict[str, Any]) -> Path:
    index = folder / f"{DIFFUSERS_STEM}.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index


def test_shards_as_diffusers_writes_them(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    whole = diffusers.AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    )
    whole.save_pretrained(tmp_path, max_shard_size="5KB")
    weights = find_weights(tmp_path)
    assert weights.index is not None
    assert len(weights.files) > 1
    state, expected = read_weights(weights), whole.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in state)


@pytest.mark.parametrize("name", ["../other.safetensors", "/etc/passwd", "a.bin", 3, "a\\b"])
def test_an_index_names_plain_files_only(tmp_path: Path, name: Any) -> None:
    _sharded(tmp_path, {"w": name})
    assert "not a plain safetensors file name" in refusal(find_weights, tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    _sharded(tmp_path, {"w": "part-1.safetensors"})
    assert "shard part-1.safetensors is missing" in refusal(find_weights, tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", '{"weight_map": 3}', '{"weight_map": {}}'])
def test_a_broken_index(tmp_path: Path, content: str) -> None:
    (tmp_path / f"{DIFFUSERS_STEM}.safetensors.index.json").write_text(content)
    assert "index.json" in refusal(find_weights, tmp_path)


def test_one_name_in_two_shards(tmp_path: Path) -> None:
    files = (tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    for file in files:
        save_file({"w": torch.ones(1)}, file)
    assert "w is in another shard too" in refusal(read_weights, WeightFiles(files))


def _net() -> nn.Module:
    with torch.device("meta"):
        return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))


def test_names_and_shapes_that_do_not_fit_are_told_with_counts() -> None:
    state = {name: torch.zeros(value.shape) for name, value in _net().state_dict().items()}
    del state["0.weight"], state["1.bias"], state["1.weight"], state["1.running_mean"]
    state |= {"extra": torch.zeros(1), "0.bias": torch.zeros(5)}
    line = refusal(load_into, _net(), state, "unet/w.safetensors")
    assert "unet/w.safetensors does not fit the Sequential" in line
    assert "4 missing: 0.weight, 1.bias, 1.running_mean and 1 more" in line
    assert "1 unexpected: extra" in line
    assert "1 of another shape: 0.bias (5,), expected (4,)" in line


@pytest.mark.parametrize("prefix", ["", "module."])
def test_old_files_load_as_they_are(prefix: str) -> None:
    reference = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    state = {prefix + name: value for name, value in reference.state_dict().items()}
    del state[f"{prefix}1.num_batches_tracked"]  # older than torch 0.4.1
    net = _net()
    load_into(net, state, "w.pth")
    assert not any(tensor.is_meta for tensor in net.state_dict().values())
    x = torch.rand(1, 3, 2, 2)
    assert torch.equal(net.eval()(x), reference.eval()(x))
