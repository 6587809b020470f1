"""Builds one engine set in a process of its own, which may die without any other."""

from __future__ import annotations

import traceback
from io import RawIOBase
from typing import Any

from ..errors import StreamDiffVSRError
from ..runtime.processes import messages
from .spec import BuildSpec, execute


def serve(order: dict[str, Any], inbox: RawIOBase, outbox: RawIOBase) -> None:
    """Send a ``progress`` message for each line of the build, then ``end``.

    A failure that is no `StreamDiffVSRError` is sent by its kind, as the parent raises it again.
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
