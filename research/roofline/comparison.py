"""The counted graphs against the original: its work, less every saving, is what must be left.

The original's figures are of its own modules (diffusers, torchvision's RAFT, the autoencoder) on
torch's meta device, every operator counted as it is dispatched, rounded to whole GFLOP. They owe
nothing to this package's graphs. What each saving is: docs/performance.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...graphs.spec import Size, padded_size
from .counts import STEPS, read_counts

UPDATES = 12  # of RAFT-large
RAFT_WIDTH, RAFT_TAPS, RAFT_CONVS = 128, 5, 6  # three gates along rows, three along columns
UNET_DOUBLING = (1024, 512, 512)  # channels of the convolutions after doubling, lowest level first
VAE_DOUBLING = (64, 64)
SAVED_BY_PHASES = 20 / 36  # 4 of 9 taps are left of each of the four phases


@dataclass(frozen=True, slots=True)
class Original:
    """GFLOP of one run of each part of the original, and of a frame's savings.

    Attributes:
        case: The one of `counts.CASES` that is counted like it.
        size: LR size (h, w) at which the original was counted.
        hint: The work of the ControlNet's hint, which `controlnet` includes.
        raft: With the correlation lookup of the case.
        mask, previous_fmap, prompt, times: Saved in a frame.
    """

    case: str
    size: Size
    unet: int
    controlnet: int
    hint: int
    encoder: int
    decoder: int
    raft: int
    mask: int
    previous_fmap: int
    prompt: float = 30
    times: float = 0.2


ORIGINALS = (
    Original("128x128", (128, 128), 1131, 441, 78, 119, 141, 422, 40, 36),
    Original("320x180", (180, 320), 3991, 1560, 275, 420, 494, 1560, 140, 125),
    Original("480x270", (270, 480), 9020, 3528, 619, 944, 1112, 3350, 315, 282),
    Original("480x270 all-pairs", (270, 480), 9020, 3528, 619, 944, 1112, 3808, 315, 282),
    Original("960x540 untiled", (540, 960), 37259, 14709, 2475, 3777, 4449, 13400, 1261, 1127),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One part of a frame, in GFLOP.

    Attributes:
        savings: What the original does and the graphs do not, by name.
    """

    part: str
    original: float
    savings: Mapping[str, float]
    counted: float

    @property
    def expected(self) -> float:
        """The original's work less all savings."""
        return self.original - sum(self.savings.values())

    @property
    def difference(self) -> float:
        """The difference of the counted work from the expected work, as a share of the latter."""
        return self.counted / self.expected - 1


def compare(original: Original) -> list[Row]:
    """Returns a row for each part of a frame at one size, and one for the whole frame last."""
    frame = read_counts()[original.case]
    counted = {name: 1e-9 * w.flops * frame.runs[name] for name, w in frame.graphs.items()}
    padded = padded_size(original.size)
    # The original takes 270 rows as they are, the graphs pad them to 272: work goes by the pixel.
    rows = padded[0] / original.size[0]
    steps = STEPS * rows
    denoisers = original.unet + original.controlnet - original.hint
    parts = [
        Row(
            "UNet and ControlNet",
            steps * denoisers,
            {
                # Not at the lowest level: its size may be odd, and one graph serves all sizes.
                "phases": STEPS * _phases(_unet_levels(padded)[1:], UNET_DOUBLING[1:]),
                "prompt": original.prompt,
                "time embeddings": original.times,
            },
            counted["denoise"],
        ),
        Row(
            "hint",
            steps * original.hint,
            {"once, not in each step": (STEPS - 1) * rows * original.hint},
            counted["guide"],
        ),
        Row(
            "RAFT",
            rows * original.raft,
            {
                "mask once": rows * original.mask,
                "features once": rows * original.previous_fmap,
                "context once": _context(padded),
            },
            counted["features"] + counted["flow"],
        ),
        Row("encoder", rows * original.encoder, {}, counted["temporal"]),
        Row(
            "decoder",
            rows * original.decoder,
            {"phases": _phases(_vae_levels(padded), VAE_DOUBLING)},
            counted["decode"],
        ),
    ]
    return [*parts, _whole(parts)]


def comparison_markdown() -> str:
    """Returns one table of all sizes."""
    lines = [
        "| input | part | original | saved | expected | counted | difference |",
        "|---|---|---|---|---|---|---|",
    ]
    for original in ORIGINALS:
        for row in compare(original):
            saved = ", ".join(f"{name} {_gflop(value)}" for name, value in row.savings.items())
            figures = (row.original, row.expected, row.counted)
            first, expected, counted = (_gflop(value) for value in figures)
            lines.append(
                f"| {original.case} | {row.part} | {first} | {saved} | {expected} | {counted} "
                f"| {100 * row.difference:+.2f} % |"
            )
    return "\n".join(lines)


def _gflop(value: float) -> str:
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"


def _whole(parts: list[Row]) -> Row:
    saved = {"all": sum(value for part in parts for value in part.savings.values())}
    original, counted = sum(p.original for p in parts), sum(p.counted for p in parts)
    return Row("**frame**", original, saved, counted)


def _phases(levels: list[Size], channels: tuple[int, ...]) -> float:
    """Returns the GFLOP that phases save in the 3x3 convolution after each exact doubling."""
    saved = 0.0
    for small, large, width in zip(levels, levels[1:], channels, strict=False):
        if large == (2 * small[0], 2 * small[1]):
            saved += 2e-9 * 9 * width**2 * large[0] * large[1] * SAVED_BY_PHASES
    return saved


def _unet_levels(size: Size) -> list[Size]:
    levels = [size]
    for _ in UNET_DOUBLING:
        height, width = levels[-1]
        levels.append((-(-height // 2), -(-width // 2)))
    return levels[::-1]


def _vae_levels(size: Size) -> list[Size]:
    return [(size[0] * scale, size[1] * scale) for scale in (1, 2, 4)]


def _context(size: Size) -> float:
    """Returns the GFLOP that RAFT saves by convolving its context once, and not in every update."""
    positions = (size[0] // 2) * (size[1] // 2)
    return 2e-9 * RAFT_CONVS * RAFT_TAPS * RAFT_WIDTH**2 * positions * (UPDATES - 1)
