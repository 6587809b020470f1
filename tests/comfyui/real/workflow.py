"""A workflow as the page saves it -> a prompt as the server takes it.

What the page's own conversion does, for workflows without subgraphs and reroutes. Knows the saved
format and a server's description of its nodes.
"""

from __future__ import annotations

from typing import Any

from .server import Prompt

WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
NOTES = {"Note", "MarkdownNote"}
SEEDS = {"seed", "noise_seed"}  # these have a second widget, of what happens after a run
AFTER = {"fixed", "increment", "decrement", "randomize"}


def to_prompt(workflow: dict[str, Any], nodes: dict[str, Any]) -> Prompt:
    """The prompt of a saved workflow.

    Args:
        nodes: The answer of `/object_info`.

    Raises:
        KeyError: It has a node that the server does not.
    """
    sources = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    return {
        str(node["id"]): {
            "class_type": node["type"],
            "inputs": _values(node, nodes[node["type"]]) | _links(node, sources),
        }
        for node in workflow["nodes"]
        if node["type"] not in NOTES
    }


def _links(node: dict[str, Any], sources: dict[int, list[Any]]) -> dict[str, Any]:
    linked = [entry for entry in node.get("inputs", []) if entry.get("link") is not None]
    return {entry["name"]: sources[entry["link"]] for entry in linked}


def _values(node: dict[str, Any], info: dict[str, Any]) -> dict[str, Any]:
    """The values of widgets, which are saved by their place alone."""
    saved = list(node.get("widgets_values") or [])
    values: dict[str, Any] = {}
    for group in ("required", "optional"):
        for name, spec in info["input"].get(group, {}).items():
            if not saved:
                return values
            if not (isinstance(spec[0], list) or spec[0] in WIDGETS):
                continue
            values[name] = saved.pop(0)
            if name in SEEDS and saved and saved[0] in AFTER:
                saved.pop(0)
    return values
