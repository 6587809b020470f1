"""Runs `pip install` and prints one line for each of its steps; what pip prints goes to a log.

Usage: python pip_install.py LOG ARGUMENT...
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time

PIP = (sys.executable, "-m", "pip", "install", "--progress-bar", "off")
QUIET = ("--disable-pip-version-check", "--root-user-action", "ignore")
FETCHED = re.compile(r"\s*(?:Collecting|Downloading|Using cached) ([^\s<>=!~;\[(]+)")
CHOSEN = "Installing collected packages: "
LAST_LINES = 15  # of pip's output, shown after a failure


def main(log: str, arguments: list[str]) -> int:
    """Returns pip's exit code."""
    started, count, lines = time.monotonic(), 0, []
    terminal = sys.stdout.isatty()
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with (
        open(log, "w", encoding="utf-8") as file,
        subprocess.Popen(
            [*PIP, *QUIET, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            encoding="utf-8",
            errors="replace",
            env=environment,
        ) as pip,
    ):
        assert pip.stdout is not None
        for line in pip.stdout:
            file.write(line)
            lines.append(line)
            if line.startswith(CHOSEN):
                count = len(line.removeprefix(CHOSEN).split(","))
                _say(f"installing {count} packages", terminal)
            elif terminal and (found := FETCHED.match(line)):
                _say(f"fetching {found[1].rpartition('/')[2]}", terminal, last=False)
    if pip.returncode:
        _say("".join(lines[-LAST_LINES:]).rstrip(), terminal)
        print(f"pip failed; all that it printed is in {log}", flush=True)
    else:
        _say(f"installed {count} packages in {time.monotonic() - started:.0f} s", terminal)
    return pip.returncode


def _say(text: str, terminal: bool, *, last: bool = True) -> None:
    """Prints a line, which at a terminal replaces one that was not the last of its step."""
    print(f"\r\x1b[K{text}" if terminal else text, end="\n" if last else "", flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1], sys.argv[2:]))
    except KeyboardInterrupt:
        sys.exit("stopped; run it again to continue")
