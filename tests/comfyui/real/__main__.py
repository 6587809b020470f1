"""All that the nodes promise, tried in a real ComfyUI on a CPU.

    export COMFYUI_DIR=~/ComfyUI
    python -m streamdiffvsr.tests.comfyui.real --python ~/ComfyUI/.venv/bin/python

Starts ComfyUI with this repository as its only custom node, in a folder of its own. Prints a line
for each check, and JSON as its last line. Takes some ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from ....benchmarks.machine import describe_machine
from . import measures, results
from .inputs import write_clip
from .prompts import CLIP
from .server import ROOT, ComfyServer, comfy_server

Told = dict[str, Any]
SMALL, WIDE = (48, 64), (48, 80)


def main() -> None:
    """Run the checks; the exit code is 1 if one fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--comfyui", default=os.environ.get("COMFYUI_DIR"), help="a checkout")
    parser.add_argument("--python", default=sys.executable, help="ComfyUI's interpreter")
    parser.add_argument("--chromium", help="a browser; without it the page is left out")
    parser.add_argument("--pictures", type=Path, help="folder for pictures of the page")
    parser.add_argument("--only", nargs="*", help="names of checks")
    options = parser.parse_args()
    if not options.comfyui:
        parser.error("say where ComfyUI is: --comfyui DIR, or COMFYUI_DIR")
    told = asyncio.run(_check(options))
    ok = all(one["ok"] for one in told["checks"].values())
    print(json.dumps({"ok": ok, **told, "machine": describe_machine()}))
    sys.exit(not ok)


async def _check(options: argparse.Namespace) -> Told:
    with tempfile.TemporaryDirectory(prefix="comfyui-check-") as temporary:
        folder = Path(temporary)
        os.environ["STREAMDIFFVSR_CACHE"] = str(folder / "cache")  # builds are a part of it
        async with comfy_server(
            Path(options.comfyui).resolve(), options.python, folder / "base"
        ) as server:
            _write_inputs(server.folder / "input")
            stats = await server.get("/system_stats")
            checks: dict[str, Told] = {}
            for name, run in _checks(server, options).items():
                if options.only and name not in options.only:
                    continue
                checks[name] = await _tried(run)
                print(
                    f"{'ok  ' if checks[name]['ok'] else 'FAIL'} {name} {checks[name]}", flush=True
                )
            return {"comfyui": stats["system"]["comfyui_version"], "checks": checks}


def _checks(
    server: ComfyServer, options: argparse.Namespace
) -> dict[str, Callable[[], Awaitable[Told]]]:
    async def importing() -> Told:
        return measures.importing(server, options.python)

    async def page() -> Told:
        from .page import page

        pictures = options.pictures or server.folder
        return await page(server, pictures, options.chromium)

    checks: dict[str, Callable[[], Awaitable[Told]]] = {
        "importing": importing,
        "examples": lambda: results.examples(server),
        "video_file": lambda: results.video_file(server),
        "made_video": lambda: results.made_video(server),
        "two_sizes": lambda: results.two_sizes(server),
        "cached": lambda: results.cached(server),
        "missing_model": lambda: results.missing_model(server),
        "cancelling": lambda: measures.cancelling(server),
        "ten_runs": lambda: measures.ten_runs(server),
        "flat_memory": lambda: measures.flat_memory(server),
        "overhead": lambda: measures.overhead(server),
        "handed_back": lambda: measures.handed_back(server),
    }
    return checks | ({"page": page} if options.chromium else {})


async def _tried(run: Callable[[], Awaitable[Told]]) -> Told:
    try:
        return await run()
    except Exception as error:  # one that fails must not hide the others
        return {"ok": False, "error": f"{type(error).__name__}: {error}"}


def _write_inputs(folder: Path) -> None:
    shutil.copy(ROOT / "assets/demo/clip.mp4", folder / CLIP)
    write_clip(folder / "small.mp4", 30, SMALL)
    write_clip(folder / "wide.mp4", 8, WIDE)
    write_clip(folder / "long.mp4", 300, SMALL)


if __name__ == "__main__":
    main()
