"""Parses command lines that stand in other files with the parser of the program itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer

from streamdiffvsr.cli.app import app
from streamdiffvsr.cli.live_preview import with_preview_at


def parsed(arguments: Sequence[str]) -> dict[str, Any] | None:
    """The command and its parameters, by name; None if the program would print and end.

    Raises:
        Exception: The parser's own, for an unknown command, option or value.
    """
    command: Any = typer.main.get_command(app)
    left = with_preview_at(arguments)
    context = None
    names = ["streamdiffvsr"]
    try:
        while True:
            context = command.make_context(names[-1], list(left), parent=context)
            if not hasattr(command, "resolve_command"):
                return {"command": " ".join(names[1:]), **context.params}
            left = [*getattr(context, "_protected_args", ()), *context.args]
            name, command, left = command.resolve_command(context, left)
            names.append(name)
    except BaseException as end:
        if type(end).__name__ == "Exit" or isinstance(end, SystemExit):
            return None
        raise
