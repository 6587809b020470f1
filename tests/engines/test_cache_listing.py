"""`engines list` and `engines prune`: what is shown, what is removed, what is never touched."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import streamdiffvsr
from streamdiffvsr.engines.backends import BACKENDS
from streamdiffvsr.engines.cache import locked, staged
from streamdiffvsr.engines.manifest import MANIFEST
from streamdiffvsr.engines.trust import sign
from streamdiffvsr.errors import StreamDiffVSRError
from streamdiffvsr.tests.test_reading import SPARSE


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch, parity_engines: Path, tmp_path: Path) -> Path:
    """A cache with one good set, `good`."""
    monkeypatch.setenv("STREAMDIFFVSR_CACHE", str(tmp_path))
    (tmp_path / "engines").mkdir()
    shutil.copytree(parity_engines, tmp_path / "engines" / "good")
    return tmp_path / "engines"


def another(root: Path, name: str, **key: Any) -> Path:
    """A copy of the good set under another name, with other entries in its key."""
    folder = Path(shutil.copytree(root / "good", root / name))
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["key"] |= key
    (folder / MANIFEST).write_text(json.dumps(manifest))
    sign(folder / MANIFEST)
    return folder


def names(root: Path) -> set[str]:
    return {path.name for path in root.iterdir() if path.is_dir()}


def test_a_set_is_listed_with_all_that_tells_it_from_others(cli, root):
    (one,) = cli("engines", "list", "--json").json["engines"]
    size = sum(path.stat().st_size for path in (root / "good").iterdir())
    assert one["age_days"] >= 0
    del one["age_days"]
    assert one == {
        "path": str(root / "good"),
        "model": "parity_model",
        "size": "64x48",
        "precision": "fp32",
        "backend": "onnxruntime",
        "device": "cpu",
        "gate": "passed",
        "steps": 4,
        "flow": "all-pairs-1",
        "tile": "",
        "batch": 1,
        "bytes": size,
        "stale": "",
        "untrusted": "",
    }
    plain = cli("engines", "list")
    assert "parity_model 64x48 fp32 4 steps all-pairs-1, onnxruntime on cpu" in plain.out
    assert plain.out.endswith(f"1 engine set, {size / 2**20:.1f} MiB in {root}\n")


@pytest.mark.parametrize(
    ("seconds", "age"), [(5, "new"), (600, "10 minutes old"), (8000, "2 hours old")]
)
def test_a_young_set_has_an_age(cli, root, seconds, age):
    built = time.time() - seconds
    os.utime(root / "good" / MANIFEST, (built, built))
    assert f" MiB, {age}, gate passed" in cli("engines", "list").out


def test_an_empty_cache(cli, monkeypatch, tmp_path):
    monkeypatch.setenv("STREAMDIFFVSR_CACHE", str(tmp_path / "none"))
    assert cli("engines", "list", "--json").json["engines"] == []
    assert cli("engines", "prune", "--json").json["removed"] == []
    assert cli("engines", "prune").out == "removed 0 engine sets, 0.0 MiB\n"


def test_what_nothing_can_use_is_removed_and_told(cli, root, monkeypatch):
    another(root, "old graphs", graph_version=0)
    another(root, "other backend", backend="magic")
    another(root, "other library", backend="tensorrt-rtx", library="0.1")
    (another(root, "cut") / "denoise.onnx").unlink()
    with (another(root, "longer") / "decode.onnx").open("ab") as file:
        file.write(b"x")
        longer = file.tell()
    (another(root, "unreadable") / MANIFEST).write_text("{")
    (root / ".good.building-abc").mkdir()
    (root / ".good.building-abc" / "half").write_bytes(b"x")
    gone = replace(BACKENDS["tensorrt-rtx"], module="no_such_module")
    monkeypatch.setitem(BACKENDS, "tensorrt-rtx", gone)
    dry = cli("engines", "prune", "--dry-run", "--json").json
    assert dry["dry_run"] and len(dry["removed"]) == 7 and len(names(root)) == 8
    ran = cli("engines", "prune")
    assert names(root) == {"good"}
    for reason in (
        "have version 0, the current one is",
        "there is no backend magic",
        "no_such_module is not installed any more",
        "denoise.onnx is missing\n",
        f"decode.onnx has {longer:,} bytes instead of {longer - 1:,}\n",
        "JSONDecodeError",
        "left by a build",
        "removed 6 engine sets and the remains of 1 interrupted build, ",
    ):
        assert reason in ran.out


def sparse_manifest(folder: Path) -> None:
    os.truncate(folder / MANIFEST, SPARSE)


def piped_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()
    os.mkfifo(folder / MANIFEST)


def piped_engine(folder: Path) -> None:
    (folder / "decode.onnx").unlink()
    os.mkfifo(folder / "decode.onnx")


ODD_SETS = {
    "deep": (lambda folder: (folder / MANIFEST).write_text("[" * 200_000), "nested too deeply"),
    "large": (sparse_manifest, "3,000,000,000 bytes"),
    "pipe": (piped_manifest, "it is no ordinary file"),
    "engine": (piped_engine, "decode.onnx is no ordinary file"),
}


@pytest.mark.skipif(os.name != "posix", reason="needs pipes")
@pytest.mark.parametrize("kind", ODD_SETS)
def test_an_odd_set_is_listed_refused_and_removed_at_once(cli, root, kind):
    harm, told = ODD_SETS[kind]
    odd = another(root, "odd")
    harm(odd)
    started = time.monotonic()
    with pytest.raises(StreamDiffVSRError, match=told):
        streamdiffvsr.load(odd)
    assert re.search(f"stale: .*{told}", cli("engines", "list").out)
    assert cli("engines", "prune").out.startswith(f"removed {odd} ")
    assert time.monotonic() - started < 2 and names(root) == {"good"}


@pytest.mark.skipif(os.name != "posix", reason="needs pipes")
def test_a_set_with_a_pipe_for_a_manifest_is_replaced(root):
    odd = another(root, "odd")
    piped_manifest(odd)
    with locked(odd), staged(odd) as stage:
        (stage / MANIFEST).write_text("{}")
    assert (odd / MANIFEST).read_text() == "{}"


def test_the_remains_of_a_build_are_not_called_a_set(cli, root):
    (root / ".good.building-abc").mkdir()
    ran = cli("engines", "prune", "--dry-run")
    assert ran.out.endswith("would remove the remains of 1 interrupted build, 0.0 MiB\n")


def test_age_and_all(cli, root):
    old = another(root, "old")
    month_ago = time.time() - 30 * 86400
    os.utime(old / MANIFEST, (month_ago, month_ago))
    assert cli("engines", "prune").code == 0 and names(root) == {"good", "old"}
    (removed,) = cli("engines", "prune", "--older-than", "7", "--json").json["removed"]
    assert removed["path"] == str(old) and removed["stale"] == "built 30.0 days ago"
    assert names(root) == {"good"}
    cli("engines", "prune", "--all")
    assert names(root) == set()


def test_what_is_not_an_engine_set_or_in_use_is_never_touched(cli, root):
    (root / "photos").mkdir()
    (root / "photos" / "cat.jpg").write_bytes(b"precious")
    (root / "app").mkdir()
    (root / "app" / MANIFEST).write_text('{"name": "of a web page"}')
    (root / "app" / "index.html").write_text("precious")
    (root / "link").symlink_to(root / "good")
    another(root, "busy")
    with locked(root / "busy"):
        ran = cli("engines", "prune", "--all", "--json").json
    assert [Path(one["path"]).name for one in ran["removed"]] == ["good"]
    assert names(root) - {"link"} == {"photos", "app", "busy"}


def test_the_build_command_is_what_it_was(cli, parity_model, parity_engines):
    wanted = ("--model", parity_model, "--size", "64x48", "--out", parity_engines)
    ran = cli("engines", *wanted, "--precision", "fp32", "--device", "cpu")
    told = ran.err.splitlines()
    assert told[:2] == ["backend: onnxruntime on the CPU, fp32", f"up to date: {parity_engines}"]
    assert len(told) == 3 and told[2].startswith("memory: about ")
    assert "no such command" in cli("engines", "lst").error.lower()
    assert cli("engines", "--compute-capabilities", "new").code == 2
