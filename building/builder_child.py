"""Builds one engine set in a child process, so that a crash ends no other process."""

from __future__ import annotations

import traceback
from io import RawIOBase
from typing import Any

from ..errors import StreamDiffVSRError
from ..runtime.processes import messages
from .spec import BuildSpec, execute


def serve(order: dict[str, Any], inbox: RawIOBase, outbox: RawIOBase) -> None:
    """Sends a ``progress`` message for each line of the build, then ``end``.

    An error other than a `StreamDiffVSRError` is sent as ``memory`` or ``bug``, which the parent
    raises again.
    """
    messages.end_with_parent(inbox)

    def progress(line: str) -> None:
        messages.send(outbox, {"kind": "progress", "line": line})

    try:
        execute(BuildSpec.from_json(order), progress)
    except (StreamDiffVSRError, BrokenPipeError):
        raise
    except MemoryError as error:
        traceback.print_exception(error)
        messages.send(outbox, {"kind": "memory", "what": str(error)})
    except Exception as error:
        traceback.print_exception(error)
        messages.send(outbox, {"kind": "bug", "what": f"{type(error).__name__}: {error}"})
    else:
        messages.send(outbox, {"kind": "end"})
