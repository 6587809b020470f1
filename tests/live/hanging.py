"""`streamdiffvsr live` with an engine that never returns from its tenth frame; run as a script.

    python -m streamdiffvsr.tests.live.hanging GIVE_UP SOURCE --to out.mkv --json

It stands in for a GPU that hangs: the deadline is half a second, and GIVE_UP times that is the end.
"""

from __future__ import annotations

import sys
import threading

import numpy as np

from streamdiffvsr.cli import live as cli_live
from streamdiffvsr.cli.app import main
from streamdiffvsr.runtime.live import session
from streamdiffvsr.runtime.live.engine_thread import EngineThread, HangLimits
from streamdiffvsr.tests.live.stand_ins import PassThrough, ladder

HANGS_AT = 10


class Hanging(PassThrough):
    """Passes frames through, up to the one that it hangs at; even closing it hangs."""

    def step(self, image: np.ndarray) -> np.ndarray:
        if len(self.guided) == HANGS_AT:
            threading.Event().wait()
        return super().step(image)

    def close(self) -> None:
        threading.Event().wait()


if __name__ == "__main__":
    give_up = float(sys.argv.pop(1))
    limits = HangLimits(least_s=0.5, unknown_s=10.0, give_up=give_up)
    session.EngineThread = lambda _: EngineThread(limits)  # type: ignore[assignment, misc]
    cli_live.opener = lambda *_: lambda size, tell: ladder(full=Hanging(size=size))  # type: ignore[assignment, misc]
    sys.argv[1:1] = ["live", "--mode", "exact"]
    sys.exit(main())
