"""The torch modules that are exported as the seven graphs.

Image scaling and warping are part of the graphs, and constant inputs are folded into their weights.
"""

from __future__ import annotations

import copy
from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..graphs.schedule import StepTable
from ..graphs.spec import SCALE, Geometry, Precision, Size
from .autoencoder import TemporalAutoencoder
from .blocks import Attention, Prompt, ResnetBlock, TransformerBlock, split_phases
from .denoiser import ControlNet, Denoiser, UNet, as_batch
from .model import Model
from .raft import FACTOR, RAFT, MakeCorrelation

M = TypeVar("M", bound=nn.Module)


class TimeTable(nn.Module):
    """A ResNet block's time projection for every step: (1,) int32 step -> (1, C)."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.register_buffer("table", table)

    def forward(self, step: Tensor) -> Tensor:
        return cast(Tensor, self.table).index_select(0, step)


class PromptTable(nn.Module):
    """A projection of the constant prompt, (1, L, C), which ignores its input."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value)

    def forward(self, prompt: Prompt) -> Tensor:
        return cast(Tensor, self.value)


def recast(module: M, dtype: torch.dtype) -> M:
    """Returns a copy whose weights have another dtype; weights that have it already are shared.

    Plain tensor attributes keep their dtype: that is how an fp16 graph keeps its float32 islands.
    """
    floats = [t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()]
    memo: dict[int, Tensor] = {}
    for t in floats:
        cast_t = t.detach().to(dtype)
        memo[id(t)] = (
            nn.Parameter(cast_t, requires_grad=False) if isinstance(t, nn.Parameter) else cast_t
        )
    return copy.deepcopy(module, cast("dict[int, object]", memo))


@torch.inference_mode()
def fold_denoiser(net: M, table: StepTable, prompt: Tensor) -> M:
    """Returns a UNet or ControlNet whose `time` is the (1,) int32 step index and prompt is None."""
    assert isinstance(net, Denoiser)
    times = [net.embed_time(as_batch(int(t))) for t in table.timesteps]
    folded = recast(net, torch.float32)
    del folded.time_embedding
    for module in list(folded.modules()):
        if isinstance(module, ResnetBlock):
            rows = torch.cat([module.time_emb_proj(time) for time in times])
            module.time_emb_proj = TimeTable(rows.clone())
        elif isinstance(module, TransformerBlock):
            attentions = [module.attn1, module.attn2] if module.cross_only else [module.attn2]
            for attention in attentions:
                _fold_prompt(attention, prompt)
    return folded


def _fold_prompt(attention: Attention, prompt: Tensor) -> None:
    attention.to_k = PromptTable(attention.to_k(prompt).clone())
    attention.to_v = PromptTable(attention.to_v(prompt).clone())


# In LR pixels. From 1 down it gains PSNR on clean frames (0.06 to 0.18 dB); below 0.5 it brings
# back the noise of LR, and loses PSNR on noisy frames.
MATCH_SIGMA = 0.6


def replicate_pad(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Repeats the last row and column until (.., h, w) is (.., *size): right and bottom only."""
    # Index selection, not F.pad: the padding may exceed the frame, and Gather runs everywhere. A
    # symbolic size may need none: `specialise` removes a selection of every index.
    for dim, target in ((2, size[0]), (3, size[1])):
        side = x.shape[dim]
        if isinstance(target, torch.SymInt) or target != side:
            x = x.index_select(dim, torch.arange(target, device=x.device).clamp(max=side - 1))
    return x


def from_uint8(frame: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Converts (1, h, w, 3) uint8 RGB to (1, 3, h, w) in [-1, 1]."""
    # The cast comes first: TensorRT cannot transpose uint8.
    return 2 * (frame.to(dtype).permute(0, 3, 1, 2) / 255) - 1


def to_uint8(hr: Tensor) -> Tensor:
    """Converts raw HR (1, 3, H, W) to (1, H, W, 3) uint8 RGB, rounded half to even.

    It computes in float32 for any input: in half precision 6 % of the values would be off by one.
    """
    unit = (hr.float() / 2 + 0.5).clamp(0, 1)
    return (unit * 255).round().permute(0, 2, 3, 1).to(torch.uint8)


def bicubic(lr: Tensor) -> Tensor:
    """Upscales x4 by Keys' cubic, A = -0.75, half-pixel centres, replicated edges, not clamped."""
    return F.interpolate(lr, scale_factor=SCALE, mode="bicubic", align_corners=False)


def bicubic_kernel() -> Tensor:
    """Returns `bicubic` as a convolution: weights (3 * 16, 1, 5, 5), float32.

    An output pixel's position between input pixels takes four values along each axis, so each of
    the 16 phases is a fixed 5x5 filter; `pixel_shuffle` puts the phases in place. Runtimes differ
    in how they do cubic resizing, and how well; they do not differ in convolutions.
    """
    offsets = torch.arange(-2, 3, dtype=torch.float64)
    centres = (torch.arange(SCALE, dtype=torch.float64) + 0.5) / SCALE - 0.5  # -3/8 .. 3/8
    distance = (offsets - centres[:, None]).abs()
    a = -0.75
    near = (a + 2) * distance**3 - (a + 3) * distance**2 + 1
    far = a * (distance**3 - 5 * distance**2 + 8 * distance - 4)
    taps = torch.where(distance <= 1, near, torch.where(distance < 2, far, 0.0))  # (4, 5)
    phases = taps[:, None, :, None] * taps[None, :, None, :]  # (4, 4, 5, 5)
    return phases.reshape(1, SCALE**2, 1, 5, 5).repeat(3, 1, 1, 1, 1).flatten(0, 1).float()


def bicubic_by_convolution(lr: Tensor, kernel: Tensor) -> Tensor:
    """Computes `bicubic`, up to rounding, with `kernel` from `bicubic_kernel`."""
    around = F.pad(lr, (2, 2, 2, 2), mode="replicate")
    return F.pixel_shuffle(F.conv2d(around, kernel, groups=3), SCALE)


def colour_kernel() -> Tensor:
    """Returns the Gaussian of `match_colour`: weights (3, 1, 5, 5) that sum to one, float32."""
    taps = torch.exp(-0.5 * (torch.arange(-2, 3, dtype=torch.float64) / MATCH_SIGMA) ** 2)
    taps = taps / taps.sum()
    return torch.outer(taps, taps)[None, None].repeat(3, 1, 1, 1).float()


def match_colour(hr: Tensor, lr: Tensor, blur: Tensor, kernel: Tensor) -> Tensor:
    """Gives raw HR (1, 3, H, W) the broad colours of LR (1, 3, H/4, W/4), in float32.

    The difference between LR and the mean of each 4x4 pixels is slightly blurred and added: a step
    of back-projection (Irani, Peleg, 1991) that neither changes detail nor brings back removed
    noise.

    Args:
        blur: The result of `colour_kernel`.
        kernel: The result of `bicubic_kernel`.
    """
    missing = F.pad(lr.float() - F.avg_pool2d(hr.float(), SCALE), (2, 2, 2, 2), mode="replicate")
    return hr + bicubic_by_convolution(F.conv2d(missing, blur, groups=3), kernel).to(hr.dtype)


def warp(image: Tensor, flow: Tensor) -> Tensor:
    """Samples `image` (1, 3, H, W) where `flow` (1, 2, H, W, in pixels, x first) points.

    The grid is normalised by size - 1 but sampled with half-pixel centres, as in the released
    model: a pixel p with flow u reads (p + u) W / (W - 1) - 1/2, so zero flow is not the identity.
    Outside is 0. It computes in float32 for any input: half precision cannot address a pixel beyond
    2048.
    """
    height, width = image.shape[2:]
    xs = torch.arange(width, dtype=torch.float32, device=image.device) + flow[:, 0].float()
    ys = torch.arange(height, dtype=torch.float32, device=image.device)[:, None]
    ys = ys + flow[:, 1].float()
    grid = torch.stack([2 * xs / (width - 1) - 1, 2 * ys / (height - 1) - 1], dim=-1)
    sampled = F.grid_sample(
        image.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    return sampled.to(image.dtype)


class Prepare(nn.Module):
    """frame (1, h, w, 3) uint8 -> lr (1, 3, h', w') in [-1, 1] and its bicubic x4, padded."""

    def __init__(self, padded: Size | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.padded, self.dtype, self.kernel = padded, dtype, bicubic_kernel()

    def forward(self, frame: Tensor) -> tuple[Tensor, Tensor]:
        lr = from_uint8(frame)
        if self.padded is not None:
            lr = replicate_pad(lr, self.padded)
        return lr.to(self.dtype), bicubic_by_convolution(lr, self.kernel).to(self.dtype)


class Features(nn.Module):
    """up (1, 3, H, W) -> RAFT's features and context, at 1/8 of the flow's resolution."""

    def __init__(self, raft: RAFT, flow_scale: int) -> None:
        super().__init__()
        self.raft, self.flow_scale = raft, flow_scale

    def forward(self, up: Tensor) -> tuple[Tensor, Tensor]:
        if self.flow_scale > 1:
            up = F.avg_pool2d(up, self.flow_scale)
        if self.flow_scale * FACTOR > SCALE**2:  # else sides of HR are multiples already
            # Not by -(-n // 8): exporters write a division that rounds towards zero.
            height, width = ((n + FACTOR - 1) // FACTOR * FACTOR for n in up.shape[2:])
            up = replicate_pad(up, (height, width))
        return self.raft.encode(up)


class Flow(nn.Module):
    """Features of two frames and the current one's context -> flow (1, 2, H, W) in HR pixels."""

    def __init__(
        self, raft: RAFT, flow_scale: int, full: Size | None, correlation: MakeCorrelation
    ) -> None:
        super().__init__()
        self.raft, self.flow_scale, self.full = raft, flow_scale, full
        self.correlation = correlation

    def forward(self, fmap: Tensor, previous_fmap: Tensor, context: Tensor) -> Tensor:
        flow = self.raft.estimate(fmap, previous_fmap, context, self.correlation)
        if self.flow_scale > 1:
            scale = self.flow_scale
            # By size: a scale factor is exported as a double, which ONNX Runtime refuses.
            size = (scale * flow.shape[2], scale * flow.shape[3])
            flow = scale * F.interpolate(flow, size=size, mode="bilinear")
        return flow if self.full is None else flow[:, :, : self.full[0], : self.full[1]]


class Guide(nn.Module):
    """previous_hr and flow -> the warped frame (1, 3, H, W) and the ControlNet's hint."""

    def __init__(self, controlnet: ControlNet, full: Size | None) -> None:
        super().__init__()
        self.embedding, self.full = controlnet.controlnet_cond_embedding, full

    def forward(self, previous_hr: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
        if self.full is not None:
            previous_hr = replicate_pad(previous_hr, self.full)
        warped = warp(previous_hr, flow)
        return warped, self.embedding(warped)


class Temporal(nn.Module):
    """warped (1, 3, H, W) -> the pooled features that the decoder's blocks take."""

    def __init__(self, vae: TemporalAutoencoder) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, warped: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.vae.temporal_features(warped))


class Denoise(nn.Module):
    """One step: ControlNet, UNet and the DDIM update. `gate` scales the ControlNet's residuals."""

    latent_scale: Tensor
    output_scale: Tensor

    def __init__(self, unet: UNet, controlnet: ControlNet, table: StepTable, prompt: Tensor):
        super().__init__()
        self.unet = fold_denoiser(unet, table, prompt)
        split_phases(self.unet)
        self.controlnet = fold_denoiser(controlnet, table, prompt)
        # Plain attributes: the update stays in float32 when the weights do not.
        self.latent_scale = torch.tensor(table.latent_scale, dtype=torch.float32)
        self.output_scale = torch.tensor(table.output_scale, dtype=torch.float32)

    def forward(
        self, latent: Tensor, lr: Tensor, hint: Tensor, step: Tensor, gate: Tensor
    ) -> Tensor:
        x = torch.cat([latent, lr], dim=1)
        down, mid = self.controlnet(x, step, None, hint)
        output = self.unet(x, step, None, ([gate * r for r in down], gate * mid))
        keep = self.latent_scale.index_select(0, step)
        add = self.output_scale.index_select(0, step)
        updated: Tensor = keep * latent.float() + add * output.float()
        return updated.to(latent.dtype)


class Decode(nn.Module):
    """Latent and temporal features -> raw hr and the uint8 frame, cropped to the frame's size.

    A model that matches colours also takes LR, before the features.
    """

    def __init__(self, vae: TemporalAutoencoder, crop: Size | None) -> None:
        super().__init__()
        self.vae, self.crop = recast(vae, torch.float32), crop  # a copy: its layers change
        split_phases(self.vae)
        self.blur, self.kernel = colour_kernel(), bicubic_kernel()

    def forward(self, latent: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
        *features, gate = others
        lr = features.pop(0) if self.vae.config.match_colour else None
        hr = self.vae.decode(latent, features, gate)
        if lr is not None:
            hr = match_colour(hr, lr, self.blur, self.kernel)
        if self.crop is not None:
            hr = hr[:, :, : self.crop[0], : self.crop[1]]
        return hr, to_uint8(hr)


def build_graphs(
    model: Model,
    geometry: Geometry,
    precision: Precision,
    table: StepTable,
    correlation: MakeCorrelation,
    *,
    symbolic: bool = False,
) -> dict[str, nn.Module]:
    """Returns every graph of `spec.GRAPHS` at a size, in eval mode, sharing weights if possible.

    Args:
        symbolic: Whether they may be traced with symbolic sizes: frames are padded already, and
            outputs are not cropped.
    """
    dtype = torch.float16 if precision == "fp16" else torch.float32
    padded = None if symbolic else geometry.padded
    full = None if symbolic else _hr(geometry.padded)
    shown = geometry.size if geometry.tile is None else geometry.tile
    graphs = {
        "prepare": Prepare(padded, dtype),
        "features": Features(model.flow, geometry.flow_scale),
        "flow": Flow(model.flow, geometry.flow_scale, full, correlation),
        "guide": Guide(model.controlnet, full),
        "temporal": Temporal(model.vae),
        "denoise": Denoise(model.unet, model.controlnet, table, model.prompt_embeds),
        "decode": Decode(model.vae, None if symbolic else _hr(shown)),
    }
    return {name: recast(graph.eval(), dtype) for name, graph in graphs.items()}


def _hr(size: Size) -> Size:
    return SCALE * size[0], SCALE * size[1]
