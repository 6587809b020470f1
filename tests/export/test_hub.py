"""From names to folders, without a network: offline mode, a cache made by hand, a faked fetch."""

from __future__ import annotations

import fnmatch
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file

from streamdiffvsr import durable
from streamdiffvsr.errors import StreamDiffVSRError, UsageError
from streamdiffvsr.export import model_source
from streamdiffvsr.export.model import load_model
from streamdiffvsr.export.model_source import resolve_model

REPOSITORY = "owner/model"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Sets HF_HUB_OFFLINE=1 and an empty cache of our own, which it returns."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    cache = tmp_path / "hf"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    return cache


@pytest.fixture
def remote(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, list[tuple[str | None, list[str]]]]:
    """A repository that `snapshot_download` is made to copy from, and the calls it gets."""
    calls: list[tuple[str | None, list[str]]] = []
    snapshot = tmp_path / "snapshots" / COMMIT

    def download(repo: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        assert repo == REPOSITORY
        calls.append((revision, allow_patterns))
        for path in tiny_model.rglob("*"):
            name = path.relative_to(tiny_model).as_posix()
            if path.is_file() and any(fnmatch.fnmatch(name, p) for p in allow_patterns):
                (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, snapshot / name)
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return tiny_model, calls


def fetched(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def refusal(call: Callable[..., Any], *args: Any) -> str:
    with pytest.raises(StreamDiffVSRError) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="is not a model folder: it has none of unet/"):
        resolve_model(str(tmp_path))
    for folder in (tmp_path, tmp_path / "owner", tmp_path / "owner" / "model"):
        (folder / "unet").mkdir(parents=True)
    assert resolve_model(str(tmp_path)) == tmp_path
    monkeypatch.chdir(tmp_path)
    assert resolve_model(REPOSITORY) == Path(REPOSITORY)  # before a repository of that name
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_model("~/owner") == tmp_path / "owner"


def test_tiny_is_built_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_source, "BUILT_IN_FOLDER", tmp_path)
    assert resolve_model("tiny") == tmp_path
    monkeypatch.setattr(model_source, "BUILT_IN_FOLDER", tmp_path / "models" / "tiny")
    line = refusal(resolve_model, "tiny")
    assert line.startswith("the built-in model is not here: ")
    assert str(tmp_path / "models" / "tiny") in line


NO_NAMES = (
    [
        "",
        "nonsense",
        "./missing",
        "/missing/folder",
        "a/b/c",
        "a\\b",
        "../up",
        "owner/..",
        "o/a--b",
    ],
    ["own er/x", "-o/x", "owner/", "@main", "owner/x\n", f"o/{'x' * 9999}", "a\0b", "~nobody/x/y"],
)


@pytest.mark.parametrize("name", [name for names in NO_NAMES for name in names])
def test_neither_folder_nor_repository(name: str) -> None:
    with pytest.raises(UsageError, match="give tiny, a folder, or owner/name") as caught:
        resolve_model(name)
    assert len(str(caught.value)) < 250


def test_a_file_is_no_model(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.touch()
    with pytest.raises(UsageError, match="is a file: a model is a folder"):
        resolve_model(str(file))


def test_a_folder_has_no_revisions(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="only a repository has revisions"):
        resolve_model(str(tmp_path), "main")


def test_without_a_network_one_line_says_what_to_do_by_hand() -> None:
    line = refusal(resolve_model, REPOSITORY)
    assert line.startswith(f"no folder {REPOSITORY} here, and cannot fetch {REPOSITORY} from")
    for part in ("unet/", "controlnet/", "vae/", "scheduler/", "flow/", "docs/models.md"):
        assert part in line


def test_what_is_in_the_librarys_cache_needs_no_network(offline: Path, tiny_source: Path) -> None:
    """The cache as the library lays it out, snapshots of links to blobs included."""
    home = offline / "models--owner--model"
    snapshot = home / "snapshots" / COMMIT
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(COMMIT)
    (home / "blobs").mkdir()
    for i, path in enumerate(p for p in sorted(tiny_source.rglob("*")) if p.is_file()):
        blob = home / "blobs" / f"{i:040x}"
        shutil.copy(path, blob)
        link = snapshot / path.relative_to(tiny_source)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    for name in (REPOSITORY, f"{REPOSITORY}@main", f"{REPOSITORY}@{COMMIT}"):
        assert resolve_model(name) == snapshot
    assert load_model(snapshot).digest == load_model(tiny_source).digest
    assert f"{REPOSITORY}@v2" in refusal(resolve_model, REPOSITORY, "v2")


def test_only_what_is_needed_is_fetched_and_all_from_one_commit(remote: Any) -> None:
    model, calls = remote
    needed = fetched(model)
    for name in ("README.md", "model_index.json", "unet/diffusion_pytorch_model.bin"):
        (model / name).write_text("large")
    (model / "unet" / "diffusion_pytorch_model.fp16.safetensors").write_text("large")
    (model / "text_encoder").mkdir()
    (model / "text_encoder" / "model.safetensors").write_text("large")
    folder = resolve_model(f"{REPOSITORY}@v1")
    assert fetched(folder) == needed
    assert [revision for revision, _ in calls] == ["v1", COMMIT, COMMIT, COMMIT]
    load_model(folder)


def test_an_argument_pins_the_revision(remote: Any) -> None:
    resolve_model(REPOSITORY, "v3")
    assert remote[1][0][0] == "v3"


@pytest.mark.parametrize("end", [".fp16.safetensors", ".bin"])
def test_half_precision_or_pickles_where_there_is_nothing_else(remote: Any, end: str) -> None:
    model, _ = remote
    for part in ("unet", "controlnet", "vae"):
        path = model / part / "diffusion_pytorch_model.safetensors"
        path.rename(path.with_name(f"diffusion_pytorch_model{end}"))
    assert fetched(resolve_model(REPOSITORY)) == fetched(model)


def test_the_text_encoder_is_fetched_where_there_is_no_embedding(remote: Any) -> None:
    model, _ = remote
    (model / "prompt_embeds.safetensors").unlink()
    for name in ("config.json", "pytorch_model.bin"):
        (model / "text_encoder").mkdir(exist_ok=True)
        (model / "text_encoder" / name).write_text("x")
    assert fetched(resolve_model(REPOSITORY)) == fetched(model)


def test_a_repository_without_weights(remote: Any) -> None:
    model, _ = remote
    (model / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    assert f"{REPOSITORY} has no weights in vae/" in refusal(resolve_model, REPOSITORY)


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    line = refusal(resolve_model, REPOSITORY)
    assert "install it: pip install 'streamdiffvsr[export]'" in line.replace("Install", "install")


def _without_flow(remote: Any) -> Path:
    model: Path = remote[0]
    shutil.rmtree(model / "flow")
    return model


def _torchvision(monkeypatch: pytest.MonkeyPatch, get_state_dict: Callable[..., Any]) -> None:
    weights = SimpleNamespace(C_T_SKHT_V2=SimpleNamespace(get_state_dict=get_state_dict))
    module: Any = ModuleType("torchvision.models.optical_flow")
    module.Raft_Large_Weights = weights
    for name in ("torchvision", "torchvision.models"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "torchvision.models.optical_flow", module)


def test_flow_comes_from_torchvision_checked(
    remote: Any, parity_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _without_flow(remote)
    state = load_file(parity_model / "flow" / "raft_large.safetensors")

    def get_state_dict(**options: Any) -> dict[str, Any]:
        assert options["check_hash"]
        assert options["weights_only"]
        return state

    _torchvision(monkeypatch, get_state_dict)
    folder = resolve_model(REPOSITORY)
    assert [p.name for p in (folder / "flow").iterdir()] == ["raft_large.safetensors"]
    load_model(folder)


def test_flow_that_cannot_be_fetched(remote: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _without_flow(remote)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    line = refusal(resolve_model, REPOSITORY)
    assert "comes without optical-flow weights: torchvision" in line
    assert "flow (docs/models.md)" in line

    def fails(*_: Any, **__: Any) -> None:
        raise OSError("no route to host\nmore")

    _torchvision(monkeypatch, fails)
    line = refusal(resolve_model, REPOSITORY)
    assert "no route to host; put raft_large.safetensors into " in line

    _torchvision(monkeypatch, lambda **_: {"w": torch.ones(1)})
    monkeypatch.setattr(durable.os, "replace", fails)  # the disk, this time
    line = refusal(resolve_model, REPOSITORY)
    flow = Path(line.split(" into ")[1].split(" (")[0])
    assert not list(flow.iterdir())


def test_the_built_in_model_stands_in_for_weights_that_cannot_be_had() -> None:
    told: list[str] = []
    assert model_source.released_or_built_in(told.append) == "tiny"
    assert len(told) == 1 and model_source.RELEASED in told[0] and "tiny" in told[0]


def test_the_released_weights_are_taken_if_they_can_be_had(
    remote: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_source, "RELEASED", REPOSITORY)
    told: list[str] = []
    assert model_source.released_or_built_in(told.append) == REPOSITORY and not told
