"""What writes a file in a `with` block: closed when the block ends well, else taken back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import TypeVar

_Writer = TypeVar("_Writer", bound="ClosesOrAborts")


class ClosesOrAborts(ABC):
    """`close` at the end of the block, `abort` if it raised."""

    _closed: bool

    @abstractmethod
    def close(self) -> None:
        """Finish what was begun."""

    @abstractmethod
    def abort(self) -> None:
        """Stop, and leave nothing behind that is not whole."""

    def __enter__(self: _Writer) -> _Writer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        elif not self._closed:
            self.abort()
