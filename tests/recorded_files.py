"""The recorded model and run, unpacked. In the tree they are packed, at a fifth of their size.

    python -m streamdiffvsr.tests.recorded_files FOLDER

A tensor of the model has a few dozen distinct values at most, so the weights pack well. What is
unpacked is what was recorded, bit for bit: every file is held against its digest.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import sys
from pathlib import Path

from filelock import FileLock

DATA = Path(__file__).parent / "data"
MODEL, TRACE = "parity_model", "parity_trace.safetensors"
SUMS = "SHA256SUMS"  # of what is unpacked
PACKED = ".xz"


def unpack(folder: Path) -> Path:
    """Fill a folder with the recorded files; what is there and right is left untouched.

    Raises:
        ValueError: A packed file does not hold what was recorded.
    """
    folder.mkdir(parents=True, exist_ok=True)
    recorded = digests()
    with FileLock(folder / ".unpacking.lock"):
        for source in (path for path in DATA.rglob("*") if path.is_file()):
            name = source.relative_to(DATA).as_posix().removesuffix(PACKED)
            digest = recorded.get(name) or _sha256(source)
            if not _is_there(folder / name, digest):
                _write(folder / name, _content(source), digest)
    return folder


def digests() -> dict[str, str]:
    """SHA-256 by name of each file that is kept packed."""
    lines = (DATA / SUMS).read_text(encoding="ascii").splitlines()
    return {name: digest for digest, name in (line.split(maxsplit=1) for line in lines)}


def _content(source: Path) -> bytes:
    content = source.read_bytes()
    return lzma.decompress(content) if source.suffix == PACKED else content


def _write(target: Path, content: bytes, digest: str) -> None:
    """Write it whole: another worker may be reading what was there."""
    if hashlib.sha256(content).hexdigest() != digest:
        raise ValueError(f"{target.name} is packed as something else than what was recorded")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    part.write_bytes(content)
    os.replace(part, target)


def _is_there(target: Path, digest: str) -> bool:
    return target.is_file() and _sha256(target) == digest


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    print(unpack(Path(sys.argv[1])))
