"""A report's file: whole or not at all."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from ...errors import StreamDiffVSRError
from ...runtime.durable import beside


def write_text(path: str | Path, text: str) -> None:
    """Write a file, and the folders above it, as UTF-8.

    Raises:
        StreamDiffVSRError: It cannot be written; a file that was there is as it was.
    """
    path = Path(path)
    part = beside(path, after=".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8", newline="\n")
        os.replace(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        why = error.strerror or str(error)
        remedy = "choose another place, with room"
        raise StreamDiffVSRError(f"cannot write {path}", why, remedy) from None
