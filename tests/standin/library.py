"""The stand-in for NVIDIA's driver library: how it is compiled, and what it can be asked."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Sequence
from ctypes import c_char_p, c_int, c_long, c_size_t, c_ulonglong, c_void_p
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).parent / "driver"
SONAME = "libcuda.so.1"
_BUFFERS = (c_int, c_void_p, c_void_p)
KINDS = ("streams", "events", "graphs", "execs", "captures", "blocks", "pinned")


def compile_driver(folder: Path) -> Path | None:
    """Compile the library into a folder; returns its path, or None if there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    library = folder / SONAME
    sources = sorted(str(path) for path in SOURCES.glob("*.c"))
    flags = ["-std=gnu11", "-shared", "-fPIC", "-O1", "-g", "-Wall", "-Wextra"]
    subprocess.run(
        [compiler, *flags, "-o", library, *sources, f"-Wl,-soname,{SONAME}", "-lpthread", "-ldl"],
        check=True,
    )
    return library


@dataclass(frozen=True)
class Live:
    """The objects that were made and not yet given back."""

    streams: int = 0
    events: int = 0
    graphs: int = 0
    execs: int = 0
    captures: int = 0
    blocks: int = 0
    pinned: int = 0


class Standin:
    """The stand-in that `cuda.bindings` has loaded in this process, for tests to query."""

    def __init__(self, path: str = SONAME) -> None:
        self._library = ctypes.CDLL(path)
        for name, result, *arguments in (
            ("fail", None, c_long, c_int, c_int),
            ("injected", c_long),
            ("injected_releases", c_long),
            ("calls", c_long, c_char_p),
            ("calls_in_all", c_long),
            ("illegal", c_long),
            ("last_illegal", c_char_p),
            ("live", c_long, c_char_p),
            ("used", c_long, c_int),
            ("retained", c_long, c_int),
            ("pending", c_long),
            ("done", c_long),
            ("limit", None, c_int, c_size_t),
            ("seed", None, c_ulonglong),
            ("progress", None, c_int),
            ("finish", None),
            ("reset", None),
            ("launch", c_int, c_void_p, c_int, c_void_p, c_ulonglong, *2 * _BUFFERS),
        ):
            function = getattr(self._library, f"standin_{name}")
            function.restype, function.argtypes = result, arguments

    def reset(self) -> None:
        """Forget counts, planned failures, limits, the seed and open captures.

        Objects and pending work stay.
        """
        self._library.standin_reset()

    def seed(self, seed: int) -> None:
        """Choose the order of late work."""
        self._library.standin_seed(seed)

    def progress(self, percent: int) -> None:
        """Set the chance that an operation is carried out before anyone waits for it."""
        self._library.standin_progress(percent)

    def finish(self) -> None:
        """Carry out all work there is."""
        self._library.standin_finish()

    def fail(self, n: int = 1, code: int = 999, sticky: bool = False) -> None:
        """Let the n-th call from now fail without its effect, and with `sticky` all later ones.

        0 takes the plan back.
        """
        self._library.standin_fail(n, code, sticky)

    def limit(self, nbytes: int, device: int = 0) -> None:
        """Set how much memory a device has, or how much can be page-locked (device -1)."""
        self._library.standin_limit(device, nbytes)

    def calls(self, name: str | None = None) -> int:
        """Returns how often a function, or any function that can fail, was called."""
        if name is None:
            return int(self._library.standin_calls_in_all())
        return int(self._library.standin_calls(name.encode()))

    def injected(self) -> int:
        """Returns how many calls failed because of `fail`."""
        return int(self._library.standin_injected())

    def injected_releases(self) -> int:
        """Returns how many of them were to free or release something, which is then left."""
        return int(self._library.standin_injected_releases())

    def illegal(self) -> int:
        """Returns how many calls broke a rule of CUDA."""
        return int(self._library.standin_illegal())

    def last_illegal(self) -> str:
        """The last of them in words, or ''."""
        text: bytes = self._library.standin_last_illegal()
        return text.decode()

    def live(self) -> Live:
        """Returns the objects that were made and not yet given back."""
        return Live(*(int(self._library.standin_live(kind.encode())) for kind in KINDS))

    def used(self, device: int = 0) -> int:
        """The bytes in use of a device, or of page-locked memory (-1)."""
        return int(self._library.standin_used(device))

    def retained(self, device: int = 0) -> int:
        """Returns how often a device's primary context is retained."""
        return int(self._library.standin_retained(device))

    def pending(self) -> int:
        """Returns how many operations are yet to be carried out."""
        return int(self._library.standin_pending())

    def done(self) -> int:
        """Returns how many operations were carried out."""
        return int(self._library.standin_done())

    def launch(
        self,
        stream: int,
        inputs: Sequence[tuple[int, int]],
        outputs: Sequence[tuple[int, int]],
        *,
        engine: int = 0,
        scratch: int = 0,
        salt: int = 0,
    ) -> int:
        """Put a kernel on a stream; returns CUDA's result. Buffers are addresses and sizes.

        All bytes of the outputs follow from all bytes of the inputs, by way of 16 bytes of device
        memory at `scratch`, or of the engine's own.
        """
        buffers = *_buffers(inputs), *_buffers(outputs)
        return int(self._library.standin_launch(stream, engine, scratch, salt, *buffers))


def _buffers(ranges: Sequence[tuple[int, int]]) -> tuple[int, object, object]:
    addresses = (c_void_p * len(ranges))(*(address for address, _ in ranges))
    sizes = (c_size_t * len(ranges))(*(size for _, size in ranges))
    return len(ranges), addresses, sizes
