"""The one kind of error that users read, and how messages name the options in them.

What an option is called depends on the reader: `--flow-scale 2` in a terminal, `flow_scale=2` in
Python, a widget in ComfyUI. So a message holds placeholders, which `option` and its like make, and
they are rendered when it is shown. Whoever shows messages chooses the words with `speaking`; the
default is Python's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

OR_DOCTOR = "{also:doctor}"  # ", or see streamdiffvsr doctor", behind another remedy
MAX_SHOWN = 60  # characters of a bad value that a message repeats
_PLACEHOLDER = re.compile(r"\{(option|without|command|also):([\w ]+)(?:=([^{}]*))?\}")


class Bare(str):
    """A value of an option that is written as it is, such as a number that is formatted."""

    __slots__ = ()


def option(name: str, *values: object, between: str = "or") -> str:
    """Returns a placeholder for an option, by its keyword in Python.

    Args:
        values: The values to set it to, if any. A size is (h, w).
        between: The word that joins several values.
    """
    return _placeholder("option", name, values, between)


def without(name: str) -> str:
    """Returns a placeholder for leaving an option out."""
    return _placeholder("without", name)


def command(name: str, **options: object) -> str:
    """Returns a placeholder for a command of the command line, with or without an option."""
    ((key, value),) = options.items() or (("", ""),)
    return _placeholder("command", f"{name} {key}".strip(), (value,) if key else ())


def _placeholder(kind: str, name: str, values: tuple[object, ...] = (), between: str = "or") -> str:
    written = [
        repr(value) if isinstance(value, str) and not isinstance(value, Bare) else str(value)
        for value in values
    ]
    return f"{{{kind}:{name}{'=' if values else ''}{f' {between} '.join(written)}}}"


class Words:
    """Puts placeholders into words: as keywords of Python; derived classes use other words.

    A value is written as in Python; an option without a value as `name=`.
    """

    def said(self, text: str) -> str:
        """Returns the text with its placeholders put into words."""
        kinds = {
            "option": self.option,
            "without": self.without,
            "command": self.command,
            "also": self.also,
        }
        return _PLACEHOLDER.sub(lambda found: kinds[found[1]](found[2], found[3]), text)

    def option(self, name: str, value: str | None) -> str:
        """Returns the words for an option."""
        return f"{name}={value or ''}"

    def without(self, name: str, value: str | None) -> str:
        """Returns the advice to leave an option out."""
        return f"leave out {self.option(name, None)}"

    def command(self, line: str, value: str | None) -> str:
        """Returns the words for a command; with a value, the line's last word is its option."""
        name, key = line.rpartition(" ")[::2] if value else (line, "")
        if name == "engines":
            return f"streamdiffvsr.build({key}={value})" if value else "streamdiffvsr.build"
        return f"streamdiffvsr {name}"

    def also(self, name: str, value: str | None) -> str:
        """Returns the hint, after another remedy, at a command that may help, too."""
        return f", or see streamdiffvsr {name}"


class Unsaid(Words):
    """Placeholders as they are, for a process whose messages another one puts into words."""

    def said(self, text: str) -> str:
        return text


_words = Words()


def speak(words: Words) -> None:
    """Makes this process put its messages into other words from now on."""
    global _words
    _words = words


@contextmanager
def speaking(words: Words) -> Iterator[None]:
    """Makes this process put its messages into other words while the block runs."""
    before = _words
    speak(words)
    try:
        yield
    finally:
        speak(before)


def said(text: str) -> str:
    """Returns a message in the words of this process."""
    return _words.said(text)


class StreamDiffVSRError(Exception):
    """A failure caused by input, environment or configuration, reported in one line.

    Args:
        what: What could not be done, naming the file or value.
        why: The cause, as far as it is known.
        remedy: What the user can do about it.

    Each may hold placeholders of `option` and its like.
    """

    def __init__(self, what: str, why: str = "", remedy: str = "") -> None:
        super().__init__(what, why, remedy)
        self._texts = (what, why, remedy)

    @property
    def what(self) -> str:
        """The words for what could not be done."""
        return said(self._texts[0])

    @property
    def why(self) -> str:
        """The cause, or ""."""
        return said(self._texts[1])

    @property
    def remedy(self) -> str:
        """The advice on what to do about it, or ""."""
        return said(self._texts[2])

    def __str__(self) -> str:
        line = self.what if not self.why else f"{self.what}: {self.why}"
        if self.remedy:
            line = f"{line.rstrip('.')}; {self.remedy}"
        return " ".join(line.split())  # one line, whatever a library put into it


class UsageError(StreamDiffVSRError):
    """The command line or a call asks for something that has no meaning (exit code 2)."""


def shown(value: object) -> str:
    """Returns a value as a message shows it: in JSON, cut to a readable length."""
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        try:
            text = repr(value)
        except ValueError:  # Python writes no whole number of thousands of digits
            text = f"a value of the type {type(value).__name__}"
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 1]}…"


def refuse(key: str, value: object, supported: str) -> NoReturn:
    """Raises a ValueError with the value that cannot be used, and the supported ones."""
    raise ValueError(f"{key} is {shown(value)}: supported is {supported}")
