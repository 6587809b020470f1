"""Model folders with pipes, devices, deep JSON and sparse files: refused at once, in one line."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import streamdiffvsr
from streamdiffvsr.errors import StreamDiffVSRError
from streamdiffvsr.export.model_source import BUILT_IN_FOLDER, check_files, model_digest
from streamdiffvsr.tests.test_reading import ODD, SPARSE

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs pipes and devices")
CONFIGS = ("unet/config.json", "scheduler/scheduler_config.json", "flow/config.json")
WEIGHTS = ("unet/diffusion_pytorch_model.safetensors", "flow/raft.safetensors")
PROMPT = "prompt_embeds.safetensors"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the built-in model, whose files a test may replace."""
    ignored = shutil.ignore_patterns("graphs")
    return Path(shutil.copytree(BUILT_IN_FOLDER, tmp_path / "model", ignore=ignored))


def refusal(model: Path, **options: object) -> str:
    started = time.monotonic()
    with pytest.raises(StreamDiffVSRError) as caught:
        streamdiffvsr.build(model, size=(33, 41), **options)
    assert time.monotonic() - started < 1
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("file", [*CONFIGS, *WEIGHTS, PROMPT])
@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_ordinary_file_is_refused(model, file, kind):
    (model / file).unlink()
    ODD[kind](model / file)
    assert "it is no ordinary file" in refusal(model)


def sparse(path: Path) -> None:
    os.truncate(path, 0)
    os.truncate(path, SPARSE)


def deep_header(path: Path) -> None:
    text = b"[" * 200_000
    path.write_bytes(len(text).to_bytes(8, "little") + text)


def deep(path: Path) -> None:
    path.write_bytes(b"[" * 200_000)


@pytest.mark.parametrize("file", CONFIGS)
@pytest.mark.parametrize(
    ("harm", "told"),
    [(sparse, "at most "), (deep, "it is nested too deeply")],
)
def test_a_config_is_small_and_shallow(model, file, harm: Callable[[Path], None], told):
    harm(model / file)
    assert told in refusal(model, steps=3)


@pytest.mark.parametrize("file", [*WEIGHTS, PROMPT])
@pytest.mark.parametrize("harm", [sparse, deep_header])
def test_weights_have_a_true_header(model, file, harm: Callable[[Path], None]):
    harm(model / file)
    assert f"cannot read {model / file}: its header is not JSON" in refusal(model)


def test_a_pickle_of_zeros_is_not_digested(tmp_path):
    (tmp_path / "raft_large.pth").touch()
    sparse(tmp_path / "raft_large.pth")
    with pytest.raises(StreamDiffVSRError, match="it begins with zeros"):
        check_files(tmp_path, [tmp_path / "raft_large.pth"])


def test_an_index_of_shards_is_shallow(model):
    single = model / WEIGHTS[0]
    single.rename(single.with_name("diffusion_pytorch_model-00001-of-00001.safetensors"))
    deep(single.with_name("diffusion_pytorch_model.safetensors.index.json"))
    assert "it is not an index of shards" in refusal(model)


def test_a_whole_model_has_the_digest_it_had(model):
    assert model_digest(model) == model_digest(BUILT_IN_FOLDER)
