"""What `doctor` found, as a report for a person and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import typer

from . import __version__
from .console import FAILED

OK, OPTIONAL, PROBLEM = "ok", "-", "problem"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        status: "ok", "-" (not there, and not needed for basic use), or "problem".
        remedy: What to do about it; empty if nothing.
    """

    name: str
    status: str
    value: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """All checks, and what they mean in sentences."""

    checks: tuple[Check, ...]
    can: tuple[str, ...]
    cannot: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing that basic use needs is missing."""
        return all(check.status != PROBLEM for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {
            "ok": self.ok,
            "version": __version__,
            "checks": [asdict(check) for check in self.checks],
            "can": list(self.can),
            "cannot": list(self.cannot),
            "exit_code": 0 if self.ok else FAILED,
        }


def show(report: Report) -> None:
    """Print a report for a person: commands stay on one line, to be copied."""
    colours = {OK: "green", OPTIONAL: "bright_black", PROBLEM: "red"}
    typer.echo(f"streamdiffvsr {__version__}")
    for check in report.checks:
        status = typer.style(f"{check.status:8}", fg=colours[check.status])
        typer.echo(f"{status}{check.name:22}{check.value}")
        if check.remedy:
            typer.echo(f"{'':30}{check.remedy}")
    for title, lines in (("Can run here:", report.can), ("Cannot yet:", report.cannot)):
        if lines:
            typer.echo("\n  ".join([f"\n{title}", *lines]))
    if not report.ok:
        typer.echo("\nSomething that is needed is missing: see 'problem' above.")
