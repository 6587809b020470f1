"""What a model is, as one hash: the engines built from a model carry it in their key.

Covers the names and the contents of exactly the files that `load_model` would read, so a changed
weight changes it, and a moved, copied or touched folder does not. Knows no torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from ..errors import StreamDiffVSRError
from .flow_files import find_flow
from .seed_layout import PARTS, part_folder, part_weights
from .weight_files import TRANSFORMERS_STEMS, find_weights

CHUNK_BYTES = 1 << 22
ContentDigest = Callable[[Path], str]
SCHEDULER_FILE = "scheduler/scheduler_config.json"
PROMPT_FILE = "prompt_embeds.safetensors"
TEXT_ENCODER_CONFIG = "text_encoder/config.json"


def content_digest(path: Path) -> str:
    """SHA-256 of a file's content, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def model_digest(folder: Path, digest: ContentDigest = content_digest) -> str:
    """SHA-256 over a model folder, as 64 hexadecimal digits.

    Args:
        digest: Of one file's content; it may remember files that have not changed.

    Raises:
        StreamDiffVSRError: A file that the model needs is missing or cannot be read.
    """
    return files_digest(folder, model_files(folder), digest)


def model_files(folder: Path) -> list[Path]:
    """Exactly the files of a model folder that have a say in its computation."""
    files = [folder / SCHEDULER_FILE, *find_flow(folder).all()]
    for part in PARTS:
        files += [part_folder(folder, part) / "config.json", *part_weights(folder, part).all()]
    prompt = folder / PROMPT_FILE
    return [*files, *([prompt] if prompt.is_file() else text_files(folder))]


def text_files(folder: Path) -> list[Path]:
    """The files that the prompt embedding is computed from, where it is not there itself.

    Raises:
        StreamDiffVSRError: There is neither an embedding nor a text encoder with its tokenizer.
    """
    tokenizer = folder / "tokenizer"
    tokens = sorted(p for p in tokenizer.glob("*") if p.suffix in (".json", ".txt"))
    if not tokens or not (folder / TEXT_ENCODER_CONFIG).is_file():
        raise StreamDiffVSRError(
            f"{folder} has no prompt embedding",
            f"neither {PROMPT_FILE} nor text_encoder/ with tokenizer/ is there",
            "the folder layout is in docs/models.md",
        )
    encoder = folder / "text_encoder"
    return [
        folder / TEXT_ENCODER_CONFIG,
        *find_weights(encoder, *TRANSFORMERS_STEMS).all(),
        *tokens,
    ]


def files_digest(folder: Path, files: list[Path], digest: ContentDigest = content_digest) -> str:
    """SHA-256 over relative names and contents, in the order of the names."""
    total = hashlib.sha256()
    for path in sorted(files):
        total.update(path.relative_to(folder).as_posix().encode() + b"\0")
        try:
            total.update(bytes.fromhex(digest(path)))
        except OSError as error:
            raise StreamDiffVSRError(f"cannot read {path}", error.strerror or str(error)) from None
    return total.hexdigest()
