"""Measures what the nodes cost in ComfyUI: time to import, over the API and to cancel; memory."""

from __future__ import annotations

import asyncio
import re
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import psutil

from . import prompts
from .inputs import frames_of, upscaler
from .prompts import CLIP, node
from .server import PACK, ROOT, ComfyServer, Event

Told = dict[str, Any]
MIB = 2**20
IMPORT_S, OVERHEAD, GROWTH, CANCEL_FRAMES = 0.3, 0.05, 0.15, 1.5
RUNS = 10
# What ComfyUI does with a folder of custom_nodes, timed.
IMPORT = """
import importlib.util, sys, time
started = time.perf_counter()
spec = importlib.util.spec_from_file_location("/comfy/custom_nodes/pack", sys.argv[1])
module = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = module
spec.loader.exec_module(module)
count = len(getattr(module, "NODE_CLASS_MAPPINGS"))
getattr(module, "NODE_DISPLAY_NAME_MAPPINGS")
print(time.perf_counter() - started, count)
"""


def importing(server: ComfyServer, python: str) -> Told:
    """Measures the import, by ComfyUI's own log and by the same steps in a new process."""
    command = [python, "-c", IMPORT, str(ROOT / "__init__.py")]
    runs = [subprocess.run(command, check=True, capture_output=True, text=True) for _ in range(5)]
    seconds = statistics.median(float(run.stdout.split()[0]) for run in runs)
    log = server.log.read_text(encoding="utf-8", errors="replace")
    said = re.search(rf"([\d.]+) seconds(.*): .*{re.escape(PACK)}", log)
    by_comfyui = float(said[1]) if said else None
    ok = said is not None and not said[2].strip() and max(seconds, float(said[1])) < IMPORT_S
    return {"ok": ok, "seconds": round(seconds, 4), "comfyui_says": by_comfyui}


async def overhead(server: ComfyServer, rounds: int = 12, count: int = 8) -> Told:
    """An Upscale node's time over the API's on the same frames, in turns.

    The API runs in this process while the server idles, and the other way round. The time of the
    CPU is that of all of ComfyUI while the prompt runs; on a busy machine it is the better measure,
    as the other includes everything else that runs.
    """
    frames = frames_of(server.folder / "input" / CLIP)[:count]
    api = upscaler(frames[0].shape[:2])
    here, there = psutil.Process(), psutil.Process(server.process.pid)
    wall: list[float] = []
    cpu: list[float] = []
    for number in range(rounds + 1):
        started, spent = time.perf_counter(), _cpu_seconds(here)
        list(api.stream(frames, api.initial_state(number)))
        api_wall, api_cpu = time.perf_counter() - started, _cpu_seconds(here) - spent
        spent = _cpu_seconds(there)
        ran = await server.run(prompts.batch(count=count, seed=number))
        if number:  # the first round loads and warms up
            wall.append(ran.seconds("5") / api_wall - 1)
            cpu.append((_cpu_seconds(there) - spent) / api_cpu - 1)
    told = {"wall": statistics.median(wall), "cpu": statistics.median(cpu)}
    spread = {"wall_quartiles": _quartiles(wall), "cpu_quartiles": _quartiles(cpu)}
    ok = min(told.values()) < OVERHEAD
    return {"ok": ok, **{k: round(v, 4) for k, v in told.items()}, **spread, "rounds": rounds}


async def cancelling(server: ComfyServer) -> Told:
    """Cancel ends a batch, and a file, within about a frame; no file is left."""
    before = {path for path in (server.folder / "output").rglob("*")}
    kinds = {"batch": prompts.batch("long.mp4", seed=99), "file": prompts.video("long.mp4")}
    told: Told = {}
    for name, prompt in kinds.items():
        shown: list[float] = []
        pressed: list[float] = []

        async def press(
            event: Event, shown: list[float] = shown, pressed: list[float] = pressed
        ) -> None:
            if event.kind == "progress" and event.data["max"] > 100 and not pressed:
                shown.append(event.at)
                if len(shown) == 6:
                    pressed.append(time.perf_counter())
                    await server.post("/interrupt", {})

        ran = await server.run(prompt, press)
        waited = ran.events[-1].at - pressed[0]
        frame = statistics.median(b - a for a, b in pairwise(shown))
        told[name] = {
            "ending": ran.ending,
            "seconds": round(waited, 3),
            "seconds_per_frame": round(frame, 3),
            "previews": len(ran.of("preview")),
        }
    left = sorted(p.name for p in set((server.folder / "output").rglob("*")) - before)
    ok = not left and all(
        one["ending"] == "execution_interrupted"
        and one["seconds"] < CANCEL_FRAMES * one["seconds_per_frame"] + 0.25
        for one in told.values()
    )
    return {"ok": ok, **told, "left": left}


async def ten_runs(server: ComfyServer) -> Told:
    """Memory after each of ten runs with other seeds."""
    after = []
    for seed in range(RUNS):
        await server.run(prompts.batch("small.mp4", seed=1000 + seed))
        after.append(_resident(server) // MIB)
    growth = after[-1] / after[2] - 1  # the first two fill caches
    return {"ok": growth < 0.03, "mib": after, "growth_from_third": round(growth, 4)}


async def flat_memory(server: ComfyServer) -> Told:
    """The peak of a file of 300 frames over that of one of 30, ComfyUI and its processes."""
    peaks: dict[int, float] = {}
    for clip, frames in (("small.mp4", 30), ("small.mp4", 30), ("long.mp4", 300)):
        with _peak(server) as peak:
            ran = await server.run(prompts.video(clip, seed=frames + len(peaks)))
        peaks[frames] = peak[0] / MIB
        if ran.ending != "execution_success":
            return {"ok": False, "ending": ran.ending, **ran.data}
    growth = peaks[300] / peaks[30] - 1
    told = {f"mib_{frames}": round(peak, 1) for frames, peak in peaks.items()}
    return {"ok": growth < GROWTH, **told, "growth": round(growth, 4)}


async def handed_back(server: ComfyServer) -> Told:
    """ComfyUI's own button gives the memory of engines and frames back; Unload that of engines.

    On a CPU, ONNX Runtime keeps its scratch memory for the next engines, and the built-in model is
    small: what Unload gives back there is seen in tests only.
    """
    prompt = prompts.batch(seed=5)
    await server.run(prompt)
    loaded = _resident(server)
    unload = {
        "8": node("StreamDiffVSR_Unload", pipe=["1", 0], after=["5", 0]),
        "9": node("PreviewImage", images=["8", 0]),  # any type is passed on as it came
    }
    passed_on = (await server.run({**prompt, **unload})).ending
    unloaded = _resident(server)
    await server.post("/free", {"unload_models": True, "free_memory": True})
    await asyncio.sleep(2)  # the server frees when its queue next wakes
    numbers = {"loaded": loaded, "unloaded": unloaded, "freed": _resident(server)}
    told = {f"mib_{name}": count // MIB for name, count in numbers.items()}
    ok = passed_on == "execution_success" and numbers["freed"] < 0.95 * loaded
    return {"ok": ok, "passed_on": passed_on, **told}


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _quartiles(found: list[float]) -> list[float]:
    low, _, high = statistics.quantiles(found, n=4)
    return [round(low, 4), round(high, 4)]


def _resident(server: ComfyServer) -> int:
    process = psutil.Process(server.process.pid)
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            total += one.memory_info().rss
        except psutil.Error:
            continue  # it has ended meanwhile
    return total


@contextmanager
def _peak(server: ComfyServer) -> Iterator[list[int]]:
    """The most that the server and its children hold together while the block runs, in bytes."""
    most, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.05):
            most[0] = max(most[0], _resident(server))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield most
    finally:
        ended.set()
        watcher.join()
