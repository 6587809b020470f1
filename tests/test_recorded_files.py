"""The recorded files as they are kept: packed, and the same bits when unpacked."""

from __future__ import annotations

import hashlib
import lzma
import shutil
from pathlib import Path

import pytest

from streamdiffvsr.tests import recorded_files
from streamdiffvsr.tests.recorded_files import DATA, MODEL, TRACE, digests, unpack

# Of the files that the original was recorded with: no packing, and no new list of sums, may change
# what the engines are held against.
RAFT = "5486ff01cbf15d52805a6203d491f6797168b2c47b197f1484c8b68e023724ff"
RUN = "8ceac4527add84041580a397dea35bbcac93e37d6a5dfb2b20853134b9810c1d"
MOST_BYTES = 10 * 2**20


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack(tmp_path_factory.mktemp("recorded"))


def test_what_is_unpacked_is_what_was_recorded(unpacked: Path) -> None:
    recorded = digests()
    assert recorded[f"{MODEL}/flow/raft_large.safetensors"] == RAFT and recorded[TRACE] == RUN
    for name, digest in recorded.items():
        assert hashlib.sha256((unpacked / name).read_bytes()).hexdigest() == digest, name
    packed = {p.relative_to(DATA).as_posix() for p in DATA.rglob("*.xz")}
    assert {f"{name}.xz" for name in recorded} == packed


def test_configs_come_along_and_packed_files_do_not(unpacked: Path) -> None:
    for part in ("unet", "controlnet", "vae"):
        config = f"{MODEL}/{part}/config.json"
        assert (unpacked / config).read_bytes() == (DATA / config).read_bytes()
    assert not list(unpacked.rglob("*.xz")) and not list(unpacked.rglob("*.part"))


def test_in_the_tree_they_are_small() -> None:
    assert sum(path.stat().st_size for path in DATA.rglob("*") if path.is_file()) < MOST_BYTES


def test_what_is_there_stays_and_what_is_damaged_is_unpacked_again(unpacked: Path) -> None:
    model, trace = unpacked / MODEL / "vae/diffusion_pytorch_model.safetensors", unpacked / TRACE
    before = trace.stat().st_mtime_ns
    model.write_bytes(b"cut")
    unpack(unpacked)
    assert trace.stat().st_mtime_ns == before
    digest = digests()[model.relative_to(unpacked).as_posix()]
    assert hashlib.sha256(model.read_bytes()).hexdigest() == digest


def test_packed_files_of_something_else_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Path(shutil.copytree(DATA, tmp_path / "data"))
    (other / f"{TRACE}.xz").write_bytes(lzma.compress(b"another run"))
    monkeypatch.setattr(recorded_files, "DATA", other)
    with pytest.raises(ValueError, match=TRACE):
        unpack(tmp_path / "out")
    assert not (tmp_path / "out" / TRACE).exists()
