"""Whether a value is as a JSON Schema has it: the few keywords that the result's schema uses.

So that reading needs no further library. Unlike a full validator it accepts fields that the schema
does not know: a later version of this package may have added them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]
TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "number": (int, float),
    "integer": int,
    "boolean": bool,
    "null": type(None),
}


def violation(
    value: Any, schema: Schema, root: Schema | None = None, where: str = ""
) -> str | None:
    """The first thing that is not as the schema has it, in words; None where all is.

    Args:
        value: Parsed JSON.
        schema: The part of the schema for this value.
        root: The whole schema, which holds `$defs`.
        where: The value's place, such as `subjects[0].modes`.
    """
    root = schema if root is None else root
    if "$ref" in schema:
        schema = {**root["$defs"][schema["$ref"].rpartition("/")[2]], **schema}
    if "anyOf" in schema:
        found = [violation(value, option, root, where) for option in schema["anyOf"]]
        return None if None in found else found[0]
    if (fault := _scalar(value, schema)) is not None:
        return f"{where or 'the result'} {fault}"
    if isinstance(value, dict):
        return _fields(value, schema, root, where)
    if isinstance(value, list):
        return _items(value, schema, root, where)
    return None


def _scalar(value: Any, schema: Schema) -> str | None:
    if "const" in schema and value != schema["const"]:
        return f"is not {schema['const']!r}"
    if "enum" in schema and value not in schema["enum"]:
        return f"is none of {schema['enum']}"
    wanted = schema.get("type", list(TYPES))
    names = [wanted] if isinstance(wanted, str) else wanted
    if not any(_is(value, name) for name in names):
        return f"is not {' or '.join(names)}"
    if _is(value, "number") and not _in_range(value, schema):
        return f"is out of range: {value}"
    return None


def _is(value: Any, name: str) -> bool:
    return isinstance(value, TYPES[name]) and (name == "boolean" or not isinstance(value, bool))


def _in_range(value: float, schema: Schema) -> bool:
    least, above = schema.get("minimum", value), schema.get("exclusiveMinimum")
    return bool(value >= least and (above is None or value > above))


def _fields(value: dict[str, Any], schema: Schema, root: Schema, where: str) -> str | None:
    for name in schema.get("required", ()):
        if name not in value:
            return f"{where or 'the result'} has no {name!r}"
    others = schema.get("additionalProperties")
    for name, held in value.items():
        part = schema.get("properties", {}).get(name, others or {})
        fault = violation(held, part, root, f"{where}.{name}" if where else name)
        if fault is not None:
            return fault
    return None


def _items(value: list[Any], schema: Schema, root: Schema, where: str) -> str | None:
    if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
        return f"{where} has {len(value)} items"
    for index, held in enumerate(value):
        fault = violation(held, schema.get("items", {}), root, f"{where}[{index}]")
        if fault is not None:
            return fault
    return None
