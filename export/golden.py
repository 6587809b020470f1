"""Recorded inputs and outputs of every graph, from the torch modules on a made-up pair of frames.

An engine is accepted only if it reproduces them. The modules run in a row, so each graph is
recorded on inputs of the kind it will see. Knows no ONNX.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ..graph_set import golden_file
from ..spec import GraphSpec, TensorSpec

Tensors = dict[str, Tensor]
TORCH = {
    "float32": torch.float32,
    "float16": torch.float16,
    "int32": torch.int32,
    "uint8": torch.uint8,
}


def example_frame(height: int, width: int, shift: int) -> Tensor:
    """A textured (1, h, w, 3) uint8 frame that moves by `shift` pixels: gradients, waves, grain."""
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float64)
    xs = xs + shift
    grain = np.random.default_rng(7).normal(0, 6, (height, width + 64))
    channels = [
        127 + 90 * np.sin(xs / (5 + c) + ys / (9 - c)) + 30 * np.cos(ys / 3 - xs / (17 + c))
        for c in range(3)
    ]
    image = np.stack(channels, axis=-1) + grain[:, shift : shift + width, None]
    return torch.from_numpy(image.clip(0, 255).astype(np.uint8)[None])


class Recorder:
    """Runs float32 modules on inputs rounded to the graphs' own dtypes, and keeps both."""

    def __init__(self, graphs: dict[str, nn.Module], specs: dict[str, GraphSpec]) -> None:
        self.graphs, self.specs = graphs, specs
        self.records: dict[str, Tensors] = {}

    def run(self, name: str, **inputs: Tensor) -> Tensors:
        """One graph in float32; what it was given and gave is kept under its name."""
        spec = self.specs[name]
        given = {s.name: inputs[s.name].to(TORCH[s.dtype]) for s in spec.inputs}
        wide = [t.float() if t.is_floating_point() else t for t in given.values()]
        result = self.graphs[name](*wide)
        outputs = (result,) if isinstance(result, Tensor) else result
        named = {s.name: out for s, out in zip(spec.outputs, outputs, strict=True)}
        record = {f"in.{k}": v.contiguous() for k, v in given.items()}
        self.records[name] = record | {f"out.{k}": v.contiguous() for k, v in named.items()}
        return named


@torch.inference_mode()
def record_golden(graphs: dict[str, nn.Module], specs: dict[str, GraphSpec], folder: Path) -> None:
    """Write the recorded tensors of every graph into `folder`; `graphs` are the float32 modules."""
    recorder = Recorder(graphs, specs)
    frame_spec = specs["prepare"].inputs[0]
    height, width = frame_spec.shape[1:3]
    first = recorder.run("prepare", frame=example_frame(height, width, 2))
    previous = recorder.run("features", up=first["up"])
    second = recorder.run("prepare", frame=example_frame(height, width, 0))
    current = recorder.run("features", up=second["up"])
    flow = recorder.run("flow", previous_fmap=previous["fmap"], **current)["flow"]
    generator = torch.Generator().manual_seed(0)
    # An image and not noise: a position in float32 is good to 1e-4 pixels, which only the slope of
    # what is sampled there turns into an error.
    past = _corner(first["up"], specs["guide"].inputs[0])
    guide = recorder.run("guide", previous_hr=past, flow=flow)
    # Denoise and decode may be of a tile's size: they are recorded on the top left one.
    by_name = {s.name: s for s in (*specs["denoise"].inputs, *specs["temporal"].inputs)}
    temporal = recorder.run("temporal", warped=_corner(guide["warped"], by_name["warped"]))
    latent = torch.randn(by_name["latent"].shape, generator=generator)
    one = torch.ones(1)
    lr = _corner(second["lr"], by_name["lr"])
    denoised = recorder.run(
        "denoise",
        latent=latent,
        lr=lr,
        hint=_corner(guide["hint"], by_name["hint"]),
        step=torch.tensor([1]),
        gate=one,
    )
    if any(tensor.name == "lr" for tensor in specs["decode"].inputs):
        temporal["lr"] = lr
    recorder.run("decode", latent=denoised["denoised"], gate=one, **temporal)
    for name, record in recorder.records.items():
        save_file(record, str(folder / golden_file(name)))


def _corner(x: Tensor, spec: TensorSpec) -> Tensor:
    return x[:, :, : spec.shape[2], : spec.shape[3]]
