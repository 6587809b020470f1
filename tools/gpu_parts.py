"""Splits files into parts of limited size, and joins them on the other side. Needs only Python.

A part is a folder. `manifest.json`, in the first of them, lists every file with its pieces; each
part has a `SHA256SUMS` of its own, for `sha256sum -c`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO

MANIFEST, SUMS = "manifest.json", "SHA256SUMS"
READ_BYTES = 4 * 2**20


@dataclass(frozen=True, slots=True)
class Piece:
    """Some bytes of a file, stored as a file of their own in a part."""

    part: str
    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Packed:
    """A file in pieces.

    Attributes:
        path: The relative path where it belongs.
        group: The backend that it is for; a group begins a new part.
    """

    path: str
    group: str
    bytes: int
    sha256: str
    pieces: list[Piece] = field(default_factory=list)


def split(files: Iterable[tuple[str, str, Path]], out: Path, part_bytes: int) -> list[Packed]:
    """Writes the parts and the manifest.

    Args:
        files: (group, relative path where it belongs, file), those of a group one after another.
        out: A folder; its other content stays.
        part_bytes: The most bytes of a part, without its lists.
    """
    packed: list[Packed] = []
    number, room, last = 0, 0, ""
    for group, path, source in files:
        pieces: list[Piece] = []
        if group != last:
            number, room, last = number + 1, part_bytes, group
        left = source.stat().st_size
        with source.open("rb") as file:
            while left or not pieces:
                if not room:
                    number, room = number + 1, part_bytes
                size = min(left, room)
                part = f"part-{number:02}"
                name = path if size == source.stat().st_size else f"{path}.{len(pieces):03}"
                target = out / part / name
                target.parent.mkdir(parents=True, exist_ok=True)
                pieces.append(Piece(part, name, size, _copy(file, target, size)))
                left, room = left - size, room - size
        packed.append(Packed(path, group, source.stat().st_size, digest(source), pieces))
    _write_lists(out, packed)
    return packed


def _write_lists(out: Path, packed: list[Packed]) -> None:
    pieces = [piece for file in packed for piece in file.pieces]
    for part in {piece.part for piece in pieces}:
        lines = [f"{p.sha256}  {p.name}\n" for p in pieces if p.part == part]
        (out / part / SUMS).write_text("".join(lines), encoding="utf-8")
    text = json.dumps({"files": [asdict(file) for file in packed]}, indent=1)
    (out / "part-01" / MANIFEST).write_text(text + "\n", encoding="utf-8")


def read_manifest(part: Path) -> list[Packed]:
    """Returns the files that the manifest of a bundle lists."""
    files = json.loads((part / MANIFEST).read_text(encoding="utf-8"))["files"]
    return [Packed(**f | {"pieces": [Piece(**piece) for piece in f["pieces"]]}) for f in files]


def join(packed: Iterable[Packed], bundle: Path, store: Path) -> list[Piece]:
    """Joins files from the parts that are there; pieces of incomplete files are kept for later.

    Args:
        bundle: The folder of the parts.
        store: The folder for the files; parts of an earlier call are no longer needed.

    Returns:
        The pieces that are still missing.

    Raises:
        ValueError: A piece or a file is damaged.
    """
    missing: list[Piece] = []
    for file in packed:
        target = store / file.path
        if target.is_file() and target.stat().st_size == file.bytes:
            continue
        lacking = [p for p in file.pieces if not _kept(p, bundle, store)]
        missing += lacking
        if lacking:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        whole = target.with_name(f"{target.name}.joining")
        with whole.open("wb") as out:
            for piece in file.pieces:
                with _place(piece, store).open("rb") as source:
                    shutil.copyfileobj(source, out, READ_BYTES)
                _place(piece, store).unlink()
        if digest(whole) != file.sha256:
            raise ValueError(f"{file.path} is not what was packed")
        whole.replace(target)
    return missing


def _kept(piece: Piece, bundle: Path, store: Path) -> bool:
    """Returns whether a piece is in the store; a new one is checked and put there first."""
    place, source = _place(piece, store), bundle / piece.part / piece.name
    if place.is_file() and place.stat().st_size == piece.bytes:
        return True
    if not source.is_file():
        return False
    if digest(source) != piece.sha256:
        raise ValueError(f"{source} is damaged")
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_name(f"{place.name}.part")
    shutil.copyfile(source, part)
    part.replace(place)
    return True


def _place(piece: Piece, store: Path) -> Path:
    return store / "pieces" / piece.part / piece.name


def digest(path: Path) -> str:
    """Returns the SHA-256 of a file's content."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(READ_BYTES):
            found.update(chunk)
    return found.hexdigest()


def _copy(file: BinaryIO, target: Path, size: int) -> str:
    """Writes the next bytes of an open file to a new file; returns their SHA-256."""
    found = hashlib.sha256()
    with target.open("wb") as out:
        while size:
            chunk = file.read(min(size, READ_BYTES))
            found.update(chunk)
            out.write(chunk)
            size -= len(chunk)
    return found.hexdigest()
