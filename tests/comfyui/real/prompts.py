"""Prompts that the checks send: nodes by number, a line each."""

from __future__ import annotations

from typing import Any

from .server import Prompt

CLIP = "streamdiffvsr_clip.mp4"


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    """One node of a prompt."""
    return {"class_type": kind, "inputs": inputs}


def loader(model: str = "tiny") -> dict[str, Any]:
    """The loader as the checks use it."""
    return node(
        "StreamDiffVSR_Loader",
        model_version=model,
        device="cpu",
        dtype="auto",
        backend="onnxruntime",
    )


def images(clip: str = CLIP, count: int = 4096) -> Prompt:
    """Nodes 1 to 4: a pipe (1), and the first frames of a clip (4)."""
    return {
        "1": loader(),
        "2": node("LoadVideo", file=clip),
        "3": node("GetVideoComponents", video=["2", 0]),
        "4": node("ImageFromBatch", image=["3", 0], batch_index=0, length=count),
    }


def batch(clip: str = CLIP, count: int = 4096, seed: int = 0) -> Prompt:
    """A clip through one Upscale node (5), shown nowhere: its size is (6)."""
    return {
        **images(clip, count),
        "5": node("StreamDiffVSR_Upscale", pipe=["1", 0], images=["4", 0], seed=seed),
        "6": node("GetImageSize", image=["5", 0]),
        "7": node("PreviewAny", source=["6", 2]),
    }


def video(clip: str, **inputs: Any) -> Prompt:
    """A clip through UpscaleVideo (3), from file to file."""
    return {
        "1": loader(),
        "2": node("LoadVideo", file=clip),
        "3": node("StreamDiffVSR_UpscaleVideo", pipe=["1", 0], video=["2", 0], **inputs),
    }


def saved(prompt: Prompt, taps: dict[str, tuple[str, int]]) -> Prompt:
    """The same, with each tap (name: node, slot) written as PNG files under its name."""
    extra = {
        f"tap-{name}": node("SaveImage", images=[source, slot], filename_prefix=f"check/{name}")
        for name, (source, slot) in taps.items()
    }
    return prompt | extra
