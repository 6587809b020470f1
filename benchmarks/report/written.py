"""A report's file: whole or not at all."""

from __future__ import annotations

from pathlib import Path

from ...durable import write_atomically
from ...errors import StreamDiffVSRError


def write_text(path: str | Path, text: str) -> None:
    """Write a file, and the folders above it, as UTF-8.

    Raises:
        StreamDiffVSRError: It cannot be written; a file that was there is as it was.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(path) as part:
            part.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        why = error.strerror or str(error)
        remedy = "choose another place, with room"
        raise StreamDiffVSRError(f"cannot write {path}", why, remedy) from None
