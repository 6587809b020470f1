"""Finds the parts of a model folder, under our names or those of the ComfyUI pack's README.

That README (cedarconnor/ComfyUI-Stream-DiffVSR, its first version) asks for `artg/`,
`temporal_decoder/`, `vae/vae_tiny.safetensors` and `flow/raft_small.pth`, and for no config. A
complete folder of that kind is used as it is; for an incomplete one the error lists everything that
is wrong. This module reads only names and headers, and needs no torch.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import StreamDiffVSRError
from .weight_files import DIFFUSERS_STEM, WeightFiles, check_header, find_weights

PARTS = ("unet", "controlnet", "vae")
OTHER_NAMES = {"controlnet": "artg", "vae": "temporal_decoder"}
STEMS = {
    "unet": (DIFFUSERS_STEM,),
    "controlnet": (DIFFUSERS_STEM, "artg_module"),
    "vae": (DIFFUSERS_STEM, "temporal_decoder", "vae_tiny"),
}
SEED_MARKS = (
    "artg/artg_module.safetensors",
    "temporal_decoder/temporal_decoder.safetensors",
    "vae/vae_tiny.safetensors",
)
TEMPORAL_MARK = ".temporal_processor."
SCHEDULER_FILE = "scheduler/scheduler_config.json"


def part_folder(folder: Path, part: str) -> Path:
    """Returns the folder of `unet`, `controlnet` or `vae`: by our name, else by the README's."""
    other = folder / OTHER_NAMES.get(part, part)
    usable = (other / "config.json").is_file()
    return other if usable and not (folder / part / "config.json").is_file() else folder / part


def part_weights(folder: Path, part: str) -> WeightFiles:
    """Returns the weights of one part, under any of the names it is known by."""
    return find_weights(part_folder(folder, part), *STEMS[part])


def explain_layout(folder: Path) -> None:
    """Raises an error with everything that is wrong in a folder filled after the pack's README.

    Raises:
        StreamDiffVSRError: The folder has that README's names and cannot be used, or it is not a
            model folder but has one inside.
    """
    inside = sorted(p.parent for p in folder.glob("*/unet") if p.is_dir())
    if not (folder / "unet").is_dir() and inside:
        raise StreamDiffVSRError(
            f"{folder} is not a model folder", "it has no unet/", f"did you mean {inside[0]}?"
        )
    names = [mark for mark in SEED_MARKS if (folder / mark).is_file()]
    if not names:
        return
    problems = [problem for part in PARTS for problem in _problems(folder, part)]
    if not (folder / SCHEDULER_FILE).is_file():
        problems.append(f"{SCHEDULER_FILE} is missing")
    if problems:
        raise StreamDiffVSRError(
            f"{folder} is laid out as the ComfyUI pack's README says ({names[0]})",
            "; ".join(problems),
            "see docs/models.md for the files to take from the released repository instead",
        )


def _problems(folder: Path, part: str) -> list[str]:
    """Returns what is wrong with one part of a folder in the README's layout."""
    at = part_folder(folder, part)
    other = folder / OTHER_NAMES.get(part, part)
    if not (at / "config.json").is_file() and other.is_dir() and not at.is_dir():
        at = other
    role = f" (the {part})" if at.name != part else ""
    problems = []
    if not (at / "config.json").is_file():
        problems.append(f"{at.name}/{role} has no config.json, so its widths are unknown")
    try:
        weights = find_weights(at, *STEMS[part])
    except StreamDiffVSRError:
        return [*problems, f"{at.name}/{role} has no weights"]
    if part == "vae" and (plain := _without_temporal(weights)):
        problems.append(f"{at.name}/{plain} has no temporal processors: it is a plain autoencoder")
    return problems


def _without_temporal(weights: WeightFiles) -> str:
    """Returns the name of a weights file that lacks the temporal processors, or ""."""
    first = weights.files[0]
    if len(weights.files) > 1 or first.suffix != ".safetensors":
        return ""  # only the usual case is checked here; loading checks every name
    return "" if any(TEMPORAL_MARK in name for name in check_header(first)) else first.name
