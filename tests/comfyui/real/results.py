"""Checks what the nodes do in ComfyUI: pixels, states, errors. Each check returns what it saw."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pictures

from ....runtime.frame_stream import Image
from . import prompts
from .inputs import frames_of, sound_of, upscaled
from .prompts import CLIP, node
from .server import ROOT, ComfyServer, Prompt, Ran
from .workflow import to_prompt

Told = dict[str, Any]
EXAMPLES = ROOT / "example_workflows"


async def examples(server: ComfyServer) -> Told:
    """Every example workflow runs, and its frames are the API's, bit for bit."""
    info = await server.get("/object_info")
    expected = upscaled(frames_of(server.folder / "input" / CLIP))
    told: Told = {}
    for path in sorted(EXAMPLES.glob("*.json")):
        prompt = to_prompt(json.loads(path.read_text(encoding="utf-8")), info)
        taps = _taps(prompt)
        ran = await server.run(prompts.saved(prompt, {n: tap[:2] for n, tap in taps.items()}))
        different = {}
        for name, (_, _, first) in taps.items():
            found = _pictures(server, ran, f"tap-{name}")
            different[name] = unequal(found, expected[first : first + len(found)])
        told[path.stem] = {"ending": ran.ending, "different_pixels": different}
    ok = all(
        one["ending"] == "execution_success" and not any(one["different_pixels"].values())
        for one in told.values()
    )
    return {"ok": ok, **told}


async def video_file(server: ComfyServer) -> Told:
    """UpscaleVideo writes what `streamdiffvsr upscale` writes: the same pictures and sound."""
    source, folder = server.folder / "input" / CLIP, server.folder
    by_node, by_cli = folder / "output" / "by_node.mp4", folder / "by_cli.mp4"
    ran = await server.run(prompts.video(CLIP, output_path=by_node.name))
    command = [sys.executable, "-m", "streamdiffvsr.cli", "upscale", str(source), str(by_cli)]
    options = ["--model", "tiny", "--backend", "onnxruntime", "--device", "cpu", "--json"]
    subprocess.run([*command, *options], check=True, stdout=subprocess.PIPE)
    told = {
        "ending": ran.ending,
        "frames": len(frames_of(by_node)),
        "different_pixels": unequal(frames_of(by_node), frames_of(by_cli)),
        "same_sound": sound_of(by_node) == sound_of(by_cli) == sound_of(source),
    }
    return {"ok": told["different_pixels"] == 0 and told["same_sound"], **told}


async def made_video(server: ComfyServer) -> Told:
    """A VIDEO that other nodes have made goes in without loss, with its sound."""
    ran = await server.run(
        {
            **prompts.images(),
            "5": node("CreateVideo", images=["4", 0], audio=["3", 1], fps=12.0),
            "6": node(
                "StreamDiffVSR_UpscaleVideo",
                pipe=["1", 0],
                video=["5", 0],
                output_path="made/made.mkv",
            ),
            "7": node("GetVideoComponents", video=["6", 2]),
            "8": node("SaveImage", images=["7", 0], filename_prefix="check/made"),
        }
    )
    expected = upscaled(frames_of(server.folder / "input" / CLIP))
    found = _pictures(server, ran, "8")
    # The output's coding is lossy; what is compared is whether the model saw the same frames.
    worst = max((_psnr_loss(a, b) for a, b in zip(found, expected, strict=True)), default=99.0)
    sound = len(sound_of(server.folder / "output/made/made.mkv")) if found else 0
    told = {"ending": ran.ending, "frames": len(found), "mean_error": worst, "sound": sound}
    return {"ok": bool(found) and worst < 4.0 and sound > 0, **told}


async def two_sizes(server: ComfyServer) -> Told:
    """Two pipes of different sizes in one prompt, to and fro, do not mix."""
    clips = {"a": ("small.mp4", "10"), "b": ("wide.mp4", "20")}
    prompt: Prompt = {"1": prompts.loader(), "2": prompts.loader()}
    for pipe, (clip, base) in zip(("1", "2"), clips.values(), strict=True):
        n = int(base)
        prompt[f"{n}"] = node("LoadVideo", file=clip)
        prompt[f"{n + 1}"] = node("GetVideoComponents", video=[f"{n}", 0])
        before: list[Any] | None = None
        for part in range(2):
            cut, up = f"{n + 2 + part}", f"{n + 4 + part}"
            prompt[cut] = node("ImageFromBatch", image=[f"{n + 1}", 0], batch_index=3 * part)
            prompt[cut]["inputs"]["length"] = 3
            prompt[up] = node("StreamDiffVSR_Upscale", pipe=[pipe, 0], images=[cut, 0])
            if before:
                prompt[up]["inputs"]["state"] = before
            before = [up, 1]
    taps = {"a0": ("14", 0), "a1": ("15", 0), "b0": ("24", 0), "b1": ("25", 0)}
    ran = await server.run(prompts.saved(prompt, taps))
    different = {}
    for name, (clip, _) in clips.items():
        found = [p for part in range(2) for p in _pictures(server, ran, f"tap-{name}{part}")]
        expected = upscaled(frames_of(server.folder / "input" / clip)[:6])
        different[clip] = unequal(found, expected)
    ok = ran.ending == "execution_success" and not any(different.values())
    return {"ok": ok, "ending": ran.ending, "different_pixels": different}


async def cached(server: ComfyServer) -> Told:
    """The same prompt again does nothing again."""
    prompt = prompts.batch("small.mp4")
    await server.run(prompt)
    again = await server.run(prompt)
    told = {"cached": sorted(again.cached), "progress": len(again.of("progress", "5"))}
    return {"ok": set(prompt) <= again.cached and not told["progress"], **told}


async def missing_model(server: ComfyServer) -> Told:
    """A model that is not there, and one that is no model, are each one line, with what to do."""
    prompt = prompts.batch("small.mp4") | {"1": prompts.loader("gone")}
    refused = await server.run(prompt)
    (server.folder / "models/StreamDiffVSR/empty").mkdir()
    failed = await server.run(prompt | {"1": prompts.loader("empty")})
    errors = refused.refusal.get("node_errors", {}).get("1", {}).get("errors", [{}])
    lines = {
        "gone": errors[0].get("details", ""),
        "empty": failed.data.get("exception_message", "").strip(),
    }
    ok = refused.ending == "refused" and failed.ending == "execution_error"
    return {"ok": ok and all(lines.values()), **lines}


def unequal(found: list[Image], expected: list[Image]) -> int:
    """Returns how many numbers differ; all of them where a frame is missing."""
    if len(found) != len(expected) or not expected:
        return max(1, sum(image.size for image in expected))
    return sum(int((a != b).sum()) for a, b in zip(found, expected, strict=True))


def _taps(prompt: Prompt) -> dict[str, tuple[str, int, int]]:
    """Returns where to look in an example: node, slot, and number of the first frame."""
    kinds = [(key, node["class_type"]) for key, node in prompt.items()]
    frames = [key for key, kind in kinds if kind == "StreamDiffVSR_ProcessFrame"]
    taps = {f"frame{number}": (key, 0, number) for number, key in enumerate(frames)}
    joined = [key for key, kind in kinds if kind == "ImageBatch"]
    batches = joined or [key for key, kind in kinds if kind == "StreamDiffVSR_Upscale"]
    return taps | {f"batch{key}": (key, 0, 0) for key in batches}


def _pictures(server: ComfyServer, ran: Ran, key: str) -> list[Image]:
    entries = ran.outputs.get(key, {}).get("images", [])
    folder = server.folder / "output"
    paths = [Path(folder, entry["subfolder"], entry["filename"]) for entry in entries]
    return [np.asarray(Pictures.open(path).convert("RGB")) for path in paths]


def _psnr_loss(a: Image, b: Image) -> float:
    return float(np.abs(a.astype(np.int16) - b).mean())
