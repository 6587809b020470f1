"""Reads and validates results, and writes each file of a report whole or not at all."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...durable import write_atomically
from ...errors import StreamDiffVSRError

SCHEMA = "streamdiffvsr.bench/1"
REMEDY = "give a file that bench wrote"
_SCHEMA_FILE = Path(__file__).parents[1] / "result_schema.json"
_LONGEST = 200  # characters of a message of the validator, which may hold a whole list


class Outputs:
    """The files that a result is written to; they are checked before anything is measured.

    Args:
        json_file: A path, "-" for standard output in place of the table, or None.
        trace, report: Paths, or None.

    Raises:
        StreamDiffVSRError: A file cannot be there, or the report's libraries are not installed.
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
        if report is not None:
            require_bench(f"could not make the report {str(report)!r}", "jinja2", "matplotlib")

    def write(self, result: Mapping[str, Any]) -> None:
        """Writes the files, then shows the table, or the JSON."""
        from .tables import show_result
        from .trace import write_trace

        if self._json not in (None, "-"):
            write_text(Path(str(self._json)), json.dumps(result, indent=1) + "\n")
        if self._report is not None:
            from .html import write_html

            write_html(result, self._report)
        if self._json == "-":
            sys.stdout.write(json.dumps(result) + "\n")
        else:
            show_result(result)
        if self._trace is not None:  # last: an odd size has no file run, and so nothing to trace
            write_trace(result, self._trace)


def require_bench(what: str, *modules: str) -> None:
    """Raises `StreamDiffVSRError` where modules of the extra `bench` are missing.

    Args:
        what: What cannot be done without them.
    """
    if missing := [name for name in modules if find_spec(name) is None]:
        why = f"not installed: {', '.join(missing)}"
        raise StreamDiffVSRError(what, why, "run pip install 'streamdiffvsr[bench]'")


def write_text(path: str | Path, text: str) -> None:
    """Writes a file, and the folders above it, as UTF-8.

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


def read_result(path: str | Path) -> dict[str, Any]:
    """Returns the result in a file.

    Fields that this version does not know are left alone; those that it knows have the type and
    range that `benchmarks/result_schema.json` gives them.

    Raises:
        StreamDiffVSRError: The file is missing, truncated, not JSON or of another schema, or the
            extra `bench` is not installed.
    """
    require_bench(f"cannot read {path}", "jsonschema")
    what = f"{path} is not a benchmark result"
    result = _parse(_text(Path(path)), what)
    found = result.get("schema") if isinstance(result, dict) else None
    if found != SCHEMA:
        named = f"its schema is {json.dumps(found)}" if found else "it names no schema"
        raise StreamDiffVSRError(what, f"expected schema {SCHEMA!r}, and {named}", REMEDY)
    if (fault := violation(result, result_schema())) is not None:
        raise StreamDiffVSRError(what, f"not as schema {SCHEMA!r} has it: {fault}", REMEDY)
    checked: dict[str, Any] = result
    return checked


@cache
def result_schema() -> dict[str, Any]:
    """Returns the JSON Schema (draft 2020-12) of a result."""
    schema: dict[str, Any] = json.loads(_SCHEMA_FILE.read_text(encoding="utf-8"))
    return schema


def violation(value: Any, schema: Mapping[str, Any]) -> str | None:
    """Returns the most telling fault of a value by a JSON Schema, in words; None if it conforms.

    Fields that the schema does not know are no fault: a later version may have added them.
    """
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    fault = best_match(Draft202012Validator(_tolerant(schema)).iter_errors(value))
    if fault is None:
        return None
    while fault.context:  # no alternative fits: report why the first does not
        fault = fault.context[0]
    where = fault.json_path.removeprefix("$").removeprefix(".") or "the result"
    return f"{where} {_in_words(fault)}"


def _tolerant(schema: Any) -> Any:
    """Returns the schema, but further fields are allowed everywhere."""
    if isinstance(schema, list):
        return [_tolerant(part) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    closed = ("additionalProperties", False)
    return {key: _tolerant(part) for key, part in schema.items() if (key, part) != closed}


def _in_words(fault: Any) -> str:
    value, wanted = fault.instance, fault.validator_value
    match fault.validator:
        case "required":
            return f"has no {next(name for name in wanted if name not in value)!r}"
        case "type":
            return f"is not {wanted if isinstance(wanted, str) else ' or '.join(wanted)}"
        case "enum":
            return f"is none of {wanted}"
        case "minimum" | "exclusiveMinimum":
            return f"is out of range: {value}"
        case "minItems" | "maxItems":
            return f"has {len(value)} items"
    return f"is not valid: {fault.message:.{_LONGEST}}"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise StreamDiffVSRError(f"cannot read {path}", "there is no such file", REMEDY) from None
    except UnicodeDecodeError:
        raise StreamDiffVSRError(f"{path} is not a benchmark result", "not text", REMEDY) from None
    except OSError as error:
        why = error.strerror or str(error)
        raise StreamDiffVSRError(f"cannot read {path}", why, REMEDY) from None


def _parse(text: str, what: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse)
    except json.JSONDecodeError as error:
        if _is_cut_off(text, error):
            why = "it is cut off: its writing was interrupted, or it was copied in part"
        else:
            why = f"not JSON: {error}"
        raise StreamDiffVSRError(what, why, REMEDY) from None
    except (ValueError, RecursionError) as error:
        raise StreamDiffVSRError(what, f"not JSON: {error}", REMEDY) from None


def _is_cut_off(text: str, error: json.JSONDecodeError) -> bool:
    """Returns whether it is the start of an object: the fault is in the last word of it."""
    if not text.lstrip().startswith("{") or error.msg.startswith("Extra data"):
        return False
    longest = len("false")
    return error.msg.startswith("Unterminated") or error.pos >= len(text.rstrip()) - longest


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not a number in JSON")
