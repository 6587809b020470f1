"""One JSON config read without trust: every value typed, bounded and, where needed, refused.

Each refusal is one line that names the file, the key, the value and what is supported. Knows JSON
and bounds; which keys a network has is in `config_files.py`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from ..errors import StreamDiffVSRError

MAX_CONFIG_BYTES = 1_000_000  # a real one has about 2 kB
MAX_SHOWN = 60  # characters of a bad value that a message repeats

log = logging.getLogger(__name__)


def shown(value: object) -> str:
    """A value as a message shows it: JSON's spelling, cut to a readable length."""
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 1]}…"


class ConfigReader:
    """Typed access to one config file; keeps count of the keys that were looked at."""

    def __init__(self, path: Path, values: dict[str, Any]) -> None:
        self.path = path
        self._values = values
        self._seen: set[str] = set()

    @classmethod
    def open(cls, path: Path) -> ConfigReader:
        """Read a JSON object.

        Raises:
            StreamDiffVSRError: The file is missing, too large, no JSON, or no JSON object.
        """
        what = f"cannot read {path}"
        try:
            if path.stat().st_size > MAX_CONFIG_BYTES:
                raise StreamDiffVSRError(what, f"a config has at most {MAX_CONFIG_BYTES} bytes")
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise StreamDiffVSRError(
                what, "no such file", "the folder layout is in docs/models.md"
            ) from None
        except OSError as error:
            raise StreamDiffVSRError(what, error.strerror or str(error)) from None
        except (ValueError, RecursionError) as error:  # also UnicodeDecodeError, JSONDecodeError
            raise StreamDiffVSRError(
                what, f"it is not valid JSON ({error})", "fetch the file again"
            ) from None
        if not isinstance(values, dict):
            raise StreamDiffVSRError(what, "it holds no JSON object", "fetch the file again")
        return cls(path, values)

    def refuse(self, key: str, value: object, supported: str) -> NoReturn:
        """Say that a value cannot be used, and what can."""
        raise StreamDiffVSRError(
            f"{self.path}: {key} is {shown(value)}", f"supported is {supported}"
        )

    def has(self, key: str) -> bool:
        """Whether the file has the key at all, be it null."""
        return key in self._values

    def raw(self, key: str, default: object) -> Any:
        """The value as it is in the file, or the default where the file lacks the key."""
        self._seen.add(key)
        return self._values.get(key, default)

    def only(self, key: str, *supported: object) -> None:
        """Refuse any value but these; the first is the one a missing key stands for."""
        value = self.raw(key, supported[0])
        if not any(value is s or (s is not None and value == s) for s in supported):
            self.refuse(key, value, " or ".join(shown(s) for s in supported))

    def integer(self, key: str, default: int, low: int, high: int) -> int:
        """A whole number within [low, high]."""
        return self._integer(key, self.raw(key, default), low, high)

    def number(self, key: str, default: float, low: float, high: float) -> float:
        """A number within [low, high]."""
        value = self.raw(key, default)
        if type(value) not in (int, float) or not low <= value <= high:  # NaN is not within
            self.refuse(key, value, f"a number from {low:g} to {high:g}")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """true or false."""
        value = self.raw(key, default)
        if type(value) is not bool:
            self.refuse(key, value, "true or false")
        return value

    def text(self, key: str, default: str, supported: Iterable[str]) -> str:
        """One of the supported words."""
        value, words = self.raw(key, default), tuple(supported)
        if value not in words:
            self.refuse(key, value, " or ".join(shown(word) for word in words))
        return str(value)

    def integers(
        self, key: str, default: tuple[int, ...], low: int, high: int, *, lengths: tuple[int, int]
    ) -> tuple[int, ...]:
        """A list of whole numbers within [low, high], its length within `lengths`."""
        values = self.items(key, default, lengths)
        return tuple(self._integer(key, value, low, high) for value in values)

    def per_level(
        self, key: str, default: int, low: int, high: int, *, levels: int
    ) -> tuple[int, ...]:
        """A number per level; a single one is meant for all levels."""
        value = self.raw(key, default)
        if isinstance(value, list):
            return self.integers(key, (), low, high, lengths=(levels, levels))
        return (self._integer(key, value, low, high),) * levels

    def flags_per_level(self, key: str, default: bool, *, levels: int) -> tuple[bool, ...]:
        """A flag per level; a single one is meant for all levels."""
        value = self.raw(key, default)
        flags = value if isinstance(value, list) else [value] * levels
        if len(flags) != levels or any(type(flag) is not bool for flag in flags):
            self.refuse(key, value, f"true, false, or a list of {levels} of them")
        return tuple(flags)

    def items(
        self, key: str, default: tuple[Any, ...], lengths: tuple[int, int]
    ) -> tuple[Any, ...]:
        """A list of anything, its length within `lengths`."""
        value = self.raw(key, list(default))
        low, high = lengths
        if not isinstance(value, list) or not low <= len(value) <= high:
            count = f"{low}" if low == high else f"{low} to {high}"
            self.refuse(key, value, f"a list of {count}")
        return tuple(value)

    def finish(self, harmless: Iterable[str]) -> None:
        """Log the keys that nobody looked at: one of them may mean a model of another kind.

        Args:
            harmless: Keys that are known not to touch inference.
        """
        known = self._seen | set(harmless)
        unknown = sorted(k for k in self._values if k not in known and not k.startswith("_"))
        if unknown:
            log.warning("%s: ignoring unknown keys: %s", self.path, ", ".join(unknown[:8]))

    def _integer(self, key: str, value: object, low: int, high: int) -> int:
        if type(value) is not int or not low <= value <= high:
            self.refuse(key, value, f"a whole number from {low} to {high}")
        return value
