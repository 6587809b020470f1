"""Reading a result: the file that `bench` wrote, or one clear line why it is none."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from ...errors import StreamDiffVSRError
from .conforms import violation

SCHEMA = "streamdiffvsr.bench/1"
REMEDY = "give a file that bench wrote"
_SCHEMA_FILE = Path(__file__).parents[1] / "result_schema.json"


def read_result(path: str | Path) -> dict[str, Any]:
    """The result in a file.

    Fields that this version does not know are left alone; those that it knows have the type and
    range that `benchmarks/result_schema.json` gives them.

    Raises:
        StreamDiffVSRError: The file is missing, truncated, not JSON, or of another schema.
    """
    what = f"{path} is no benchmark result"
    result = _parse(_text(Path(path)), what)
    found = result.get("schema") if isinstance(result, dict) else None
    if found != SCHEMA:
        told = f"its schema is {json.dumps(found)}" if found else "it names no schema"
        raise StreamDiffVSRError(what, f"expected schema {SCHEMA!r}, and {told}", REMEDY)
    if (fault := violation(result, result_schema())) is not None:
        raise StreamDiffVSRError(what, f"not as schema {SCHEMA!r} has it: {fault}", REMEDY)
    checked: dict[str, Any] = result
    return checked


@cache
def result_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a result."""
    schema: dict[str, Any] = json.loads(_SCHEMA_FILE.read_text(encoding="utf-8"))
    return schema


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise StreamDiffVSRError(f"cannot read {path}", "there is no such file", REMEDY) from None
    except UnicodeDecodeError:
        raise StreamDiffVSRError(f"{path} is no benchmark result", "not text", REMEDY) from None
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
    """Whether it is the start of an object: the fault is in the last word of it."""
    if not text.lstrip().startswith("{") or error.msg.startswith("Extra data"):
        return False
    longest = len("false")
    return error.msg.startswith("Unterminated") or error.pos >= len(text.rstrip()) - longest


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no number of JSON")
