"""Records what the float32 reference computes, for the parity gate to check engines against."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from .arrays import Array, Image
from .spec import GraphSpec, TensorSpec, golden_file

# Runs one float32 graph: (its name, inputs by name) -> outputs by name.
RunGraph = Callable[[str, Mapping[str, Array]], Mapping[str, Array]]
Tensors = dict[str, Array]
APART = 4  # pixels between the frames of a batch


def example_frame(height: int, width: int, shift: int) -> Image:
    """Returns a textured (h, w, 3) uint8 frame, moved by `shift` pixels.

    It has gradients, waves and grain.
    """
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float64)
    xs = xs + shift
    grain = np.random.default_rng(7).normal(0, 6, (height, width + 64))
    channels = [
        127 + 90 * np.sin(xs / (5 + c) + ys / (9 - c)) + 30 * np.cos(ys / 3 - xs / (17 + c))
        for c in range(3)
    ]
    image = np.stack(channels, axis=-1) + grain[:, shift : shift + width, None]
    return image.clip(0, 255).astype(np.uint8)


def example_frames(count: int, height: int, width: int, shift: int) -> Image:
    """Returns different frames like `example_frame`, (count, h, w, 3), all moved by `shift`."""
    return np.stack([example_frame(height, width, shift + APART * i) for i in range(count)])


def fitted(
    run: RunGraph, padded: Mapping[str, GraphSpec], specs: Mapping[str, GraphSpec]
) -> RunGraph:
    """Returns a runner for frames of any size, of one that takes padded frames alone.

    Inputs are padded by repeating their last row and column, and outputs are cropped.

    Args:
        padded: The graphs at the size that the networks run at.
        specs: The graphs at the frames' own size.
    """

    def run_fitted(name: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        wide = {}
        for tensor in padded[name].inputs:
            given = inputs[tensor.name]
            extra = [(0, n - have) for n, have in zip(tensor.shape, given.shape, strict=True)]
            wide[tensor.name] = np.pad(given, extra, mode="edge")
        made = run(name, wide)
        return {t.name: made[t.name][tuple(map(slice, t.shape))] for t in specs[name].outputs}

    return run_fitted


class _Recorder:
    """Runs float32 graphs on inputs rounded to the engines' own dtypes, and records both."""

    def __init__(self, run: RunGraph, specs: Mapping[str, GraphSpec]) -> None:
        self._run, self._specs = run, specs
        self.records: dict[str, Tensors] = {}

    def run(self, name: str, **inputs: Array) -> Tensors:
        """Runs one graph, and records its inputs and outputs under its name."""
        given = {t.name: inputs[t.name].astype(t.dtype) for t in self._specs[name].inputs}
        wide = {k: x.astype(np.float32) if x.dtype.kind == "f" else x for k, x in given.items()}
        made = self._run(name, wide)
        outputs = {t.name: np.ascontiguousarray(made[t.name]) for t in self._specs[name].outputs}
        record = {f"in.{k}": np.ascontiguousarray(v) for k, v in given.items()}
        self.records[name] = record | {f"out.{k}": v for k, v in outputs.items()}
        return outputs


def record_golden(run: RunGraph, specs: Mapping[str, GraphSpec], folder: Path) -> None:
    """Writes the tensors that engines are checked against: two frames' way through the graphs.

    In a batch, each place has two frames of its own.

    Args:
        run: Runs the float32 reference.
        specs: The engines' graphs, at one size.
        folder: Where each graph's file is written.
    """
    recorder = _Recorder(run, specs)
    count, height, width, _ = specs["prepare"].inputs[0].shape
    first = recorder.run("prepare", frame=example_frames(count, height, width, 2))
    previous = recorder.run("features", up=first["up"])
    second = recorder.run("prepare", frame=example_frames(count, height, width, 0))
    current = recorder.run("features", up=second["up"])
    flow = recorder.run("flow", previous_fmap=previous["fmap"], **current)["flow"]
    # An image instead of noise: a float32 position has an error of 1e-4 pixels, and only the slope
    # of what is sampled there turns that into an error of the value.
    past = _corner(first["up"], specs["guide"].inputs[0])
    guide = recorder.run("guide", previous_hr=past, flow=flow)
    # Denoise and decode may run on tiles: they are recorded on the top left one.
    by_name = {t.name: t for t in (*specs["denoise"].inputs, *specs["temporal"].inputs)}
    temporal = recorder.run("temporal", warped=_corner(guide["warped"], by_name["warped"]))
    latent = np.random.default_rng(0).standard_normal(by_name["latent"].shape, np.float32)
    one, lr = np.ones(1, np.float32), _corner(second["lr"], by_name["lr"])
    denoised = recorder.run(
        "denoise",
        latent=latent,
        lr=lr,
        hint=_corner(guide["hint"], by_name["hint"]),
        step=np.array([1], np.int32),
        gate=one,
    )
    recorder.run("decode", latent=denoised["denoised"], gate=one, lr=lr, **temporal)
    for name, record in recorder.records.items():
        save_file(record, str(folder / golden_file(name)))


def _corner(x: Array, spec: TensorSpec) -> Array:
    return x[:, :, : spec.shape[2], : spec.shape[3]]
