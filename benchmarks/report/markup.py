"""Elements of HTML and SVG. What is not markup already is escaped: a name may be anything."""

from __future__ import annotations

from html import escape

WIDEST = 0.64  # of a character, as a share of the font's size; of DejaVu Sans, a wide one
VOID = {"meta", "link", "br"}


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


def tag(name: str, *inside: str, **attributes: str | float | None) -> Markup:
    """An element.

    Args:
        inside: Markup, or text, which is escaped.
        attributes: Escaped. `class_` is class, an underscore a hyphen; None leaves it out.
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_written(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{given}>") if name in VOID else _wrapped(name, given, inside)


def joined(*parts: str) -> Markup:
    """Parts one after the other; text is escaped."""
    return Markup("".join(part if isinstance(part, Markup) else escape(part) for part in parts))


def width_of(text: str, size: float) -> float:
    """How wide a text is at most, in the font's unit: the page's fonts are not known here."""
    return WIDEST * size * sum(2 if ord(letter) > 0x2E80 else 1 for letter in text)


def fitted(text: str, size: float, width: float) -> str:
    """The text, cut with an ellipsis to the width; empty where not two letters fit."""
    if width_of(text, size) <= width:
        return text
    letters = int(width / (WIDEST * size)) - 1
    return f"{text[:letters].rstrip()}\u2026" if letters >= 2 else ""


def _wrapped(name: str, given: str, inside: tuple[str, ...]) -> Markup:
    return Markup(f"<{name}{given}>{joined(*inside)}</{name}>")


def _written(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")
