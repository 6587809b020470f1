"""Files in parts and whole again: any sizes, parts that come one after another, damage."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest

from streamdiffvsr.tools.gpu_parts import digest, join, read_manifest, split

SIZES = {"small": 10, "empty": 0, "exact": 100, "large": 523, "last": 1}
PART = 100


@pytest.fixture
def files(tmp_path: Path) -> list[tuple[str, str, Path]]:
    found = []
    for index, (name, size) in enumerate(SIZES.items()):
        path = tmp_path / "sources" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(random.Random(index).randbytes(size))
        found.append(("first" if index < 2 else "second", f"folder/{name}", path))
    return found


def sizes(out: Path) -> dict[str, int]:
    """Returns the total size of the pieces of each part, in bytes."""
    lists = ("SHA256SUMS", "manifest.json")
    return {
        part.name: sum(
            p.stat().st_size for p in part.rglob("*") if p.is_file() and p.name not in lists
        )
        for part in sorted(out.iterdir())
    }


def test_parts_are_as_large_as_asked_and_groups_begin_new_ones(tmp_path: Path, files: list) -> None:
    packed = split(files, tmp_path / "out", PART)
    found = sizes(tmp_path / "out")
    assert found["part-01"] == 10 and max(found.values()) == PART
    assert sum(found.values()) == sum(SIZES.values()) and len(found) == 1 + 7
    assert packed == read_manifest(tmp_path / "out/part-01")


def test_they_come_one_by_one_and_need_not_stay(tmp_path: Path, files: list) -> None:
    out, there, store = tmp_path / "out", tmp_path / "there", tmp_path / "store"
    packed = split(files, out, PART)
    there.mkdir()
    left = len(sizes(out))
    for part in sorted(out.iterdir()):
        part.rename(there / part.name)
        missing = {piece.part for piece in join(packed, there, store)}
        left -= 1
        assert len(missing) == left
        (there / part.name).rename(out / part.name)
    for _, path, source in files:
        assert (store / path).read_bytes() == source.read_bytes()
    assert not [p for p in (store / "pieces").rglob("*") if p.is_file()]


def test_sums_are_as_sha256sum_has_them(tmp_path: Path, files: list) -> None:
    split(files, tmp_path / "out", PART)
    for part in (tmp_path / "out").iterdir():
        done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=part, capture_output=True)
        assert done.returncode == 0, done.stderr


def test_a_damaged_piece_is_named_and_nothing_is_made_of_it(tmp_path: Path, files: list) -> None:
    out, store = tmp_path / "out", tmp_path / "store"
    packed = split(files, out, PART)
    piece = out / "part-04" / "folder/large.001"
    before = digest(piece)
    piece.write_bytes(piece.read_bytes()[:-1] + b"?")
    assert digest(piece) != before
    with pytest.raises(ValueError, match=r"large\.001 is damaged"):
        join(packed, out, store)
    assert not (store / "folder/large").exists()
