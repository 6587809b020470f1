"""Where a result goes: files, then the terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import StreamDiffVSRError
from .html import write_html
from .table import show_result
from .trace import write_trace
from .written import write_text


class Outputs:
    """Where a result goes; checked before minutes are spent on it.

    Args:
        json_file: A path, "-" for standard output in place of the table, or None.
        trace, report: Paths, or None.

    Raises:
        StreamDiffVSRError: A file cannot be there.
    """

    def __init__(self, json_file: str | None, trace: Path | None, report: Path | None) -> None:
        self._json, self._trace, self._report = json_file, trace, report
        files = [Path(json_file)] if json_file not in (None, "-") else []
        for path in [*files, *(p for p in (trace, report) if p is not None)]:
            if path.is_dir() or not path.absolute().parent.is_dir():
                raise StreamDiffVSRError(
                    f"could not write {str(path)!r}",
                    "it is a folder" if path.is_dir() else "its folder does not exist",
                )

    def write(self, result: Mapping[str, Any]) -> None:
        """Write the files, then show the table, or the JSON."""
        if self._json not in (None, "-"):
            write_text(Path(str(self._json)), json.dumps(result, indent=1) + "\n")
        if self._report is not None:
            write_html(result, self._report)
        if self._json == "-":
            sys.stdout.write(json.dumps(result) + "\n")
        else:
            show_result(result)
        if self._trace is not None:  # last: an odd size has no file run, and so nothing to trace
            write_trace(result, self._trace)
