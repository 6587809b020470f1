"""Runs another program that ends when the process that started it does; started as a script.

``python -I -S tied.py PARENT MEMORY PROGRAM ARGUMENTS...`` becomes PROGRAM. It never gets more than
MEMORY bytes of address space, leaves no core dump, which could hold a password, and on Linux the
system kills it as soon as the process PARENT is gone. Elsewhere it ends with its pipes.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ties this process to its parent, and replaces it by the program."""
    parent, memory, program, *arguments = sys.argv[1:]
    with contextlib.suppress(ValueError, OSError):  # macOS refuses a limit of address space
        resource.setrlimit(resource.RLIMIT_AS, (int(memory), int(memory)))
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):
        return  # it ended before the tie was made
    os.execv(program, [program, *arguments])


if __name__ == "__main__":
    main()
