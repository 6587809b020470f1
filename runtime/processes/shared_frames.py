"""Memory that two processes share, divided into slots of one frame each.

One side makes it and writes, the other opens it by its name and reads. Messages agree on which
side uses which slot. Nothing is left when either side is killed: on Windows the memory has no
file, and elsewhere its file is unlinked as soon as both sides have opened it.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
import sys
import tempfile
from pathlib import Path

from ...errors import StreamDiffVSRError

_MEMORY_DISK = Path("/dev/shm")  # Linux: files there never reach a disk
_PREFIX = "streamdiffvsr-frames-"


class SharedFrames:
    """Slots of equal size in shared memory.

    Attributes:
        name: The name that the other process passes to :meth:`open`.
        slots: The number of slots.
        slot_bytes: The size of a slot in bytes.
    """

    def __init__(self, name: str, slots: int, slot_bytes: int, memory: mmap.mmap) -> None:
        self.name, self.slots, self.slot_bytes = name, slots, slot_bytes
        self._memory = memory
        self._view = memoryview(memory)

    @classmethod
    def create(cls, slots: int, slot_bytes: int) -> SharedFrames:
        """Makes the memory.

        Raises:
            StreamDiffVSRError: There is no room for it.
        """
        if sys.platform == "win32":
            name = _PREFIX + secrets.token_hex(8)
            return cls(name, slots, slot_bytes, mmap.mmap(-1, slots * slot_bytes, tagname=name))
        why: OSError | None = None
        for folder in (_MEMORY_DISK, Path(tempfile.gettempdir())):
            try:
                return cls._create_in(folder, slots, slot_bytes)
            except OSError as error:  # a container's memory disk is often 64 MB: try a real one
                why = error
        megabytes = slots * slot_bytes >> 20
        raise StreamDiffVSRError(
            f"could not share {megabytes} MB of frames between two processes",
            why.strerror if why and why.strerror else "",
            f"make room in {tempfile.gettempdir()}",
        )

    @classmethod
    def _create_in(cls, folder: Path, slots: int, slot_bytes: int) -> SharedFrames:
        handle, name = tempfile.mkstemp(prefix=_PREFIX, dir=folder)
        try:
            os.ftruncate(handle, slots * slot_bytes)
            if sys.platform == "linux":  # reserved now: a write without room would end the process
                os.posix_fallocate(handle, 0, slots * slot_bytes)
            return cls(name, slots, slot_bytes, mmap.mmap(handle, slots * slot_bytes))
        except BaseException:
            os.unlink(name)
            raise
        finally:
            os.close(handle)

    @classmethod
    def open(cls, name: str, slots: int, slot_bytes: int) -> SharedFrames:
        """Opens the memory that the other process made; works once, as it removes the name."""
        if sys.platform == "win32":
            return cls(name, slots, slot_bytes, mmap.mmap(-1, slots * slot_bytes, tagname=name))
        handle = os.open(name, os.O_RDWR)
        try:
            os.unlink(name)
            return cls(name, slots, slot_bytes, mmap.mmap(handle, slots * slot_bytes))
        finally:
            os.close(handle)

    def slot(self, index: int) -> memoryview:
        """Returns the bytes of one slot."""
        if not 0 <= index < self.slots:
            raise ValueError(f"{index = }, {self.slots = }")
        return self._view[index * self.slot_bytes : (index + 1) * self.slot_bytes]

    def close(self) -> None:
        """Releases the memory. Safe twice."""
        with contextlib.suppress(BufferError):  # a slot is still in use: freed with its view
            self._view.release()
            self._memory.close()
        if sys.platform != "win32":
            with contextlib.suppress(OSError):  # if it was never opened
                os.unlink(self.name)
