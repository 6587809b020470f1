"""`python -m streamdiffvsr.research.training`: trains the built-in model from the beginning.

After an interruption, the same command continues where it stopped. The stages, in order:
autoencoder, flow, denoiser, temporal. Only the temporal stage needs the flow, so the flow can be
trained at the same time as the others: `--only flow` in a second process, with the same `--out`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ...errors import StreamDiffVSRError
from .clips import ClipMaker
from .loop import Stage, load_finished, run
from .model_folder import write_model
from .networks import Networks, fresh, tiny
from .plot import plot
from .stage_autoencoder import AutoencoderStage
from .stage_denoiser import DenoiserStage
from .stage_flow import FlowStage
from .stage_temporal import TemporalStage
from .validation import Validation

STEPS = {"autoencoder": 2500, "flow": 800, "denoiser": 4500, "temporal": 900}
NEEDS = {"denoiser": ("autoencoder",), "temporal": ("autoencoder", "flow", "denoiser")}


def stages(networks: Networks, seed: int, fraction: float) -> list[Callable[[], Stage[Any]]]:
    """Returns functions that make the stages, in order.

    Each is called when its turn comes, because making a stage freezes the weights it does not
    train.
    """
    clips, validation = ClipMaker(seed), Validation()
    steps = {name: max(1, round(count * fraction)) for name, count in STEPS.items()}
    return [
        lambda: AutoencoderStage(networks, clips, validation, steps["autoencoder"]),
        lambda: FlowStage(networks, clips, steps["flow"]),
        lambda: DenoiserStage(networks, clips, validation, steps["denoiser"]),
        lambda: TemporalStage(networks, clips, steps["temporal"]),
    ]


def train(
    folder: Path,
    *,
    seed: int,
    fraction: float,
    tell: Callable[[str], None],
    only: str | None = None,
) -> dict[str, dict[str, float]]:
    """Trains all stages, or one, in `folder`; returns their figures.

    After all stages it also writes the model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    networks = fresh(tiny(), seed)
    figures = {}
    for make in stages(networks, seed, fraction):
        stage = make()
        if only not in (None, stage.name):
            if stage.name in NEEDS.get(only or "", ()):
                load_finished(stage, networks, folder)
            continue
        figures[stage.name] = run(stage, networks, folder, tell)
        plot(folder / "log.jsonl", folder / "losses.png")
    if only is None:
        write_model(networks, folder / "model", tiny())
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m streamdiffvsr.research.training", description=__doc__
    )
    parser.add_argument("--out", type=Path, default=Path("training-out"), help="checkpoints, model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--threads",
        type=int,
        default=max(1, torch.get_num_threads() - 1),
        help="for learning; one more core draws the data (too many threads are far slower)",
    )
    parser.add_argument(
        "--fraction", type=float, default=1.0, help="share of the steps; 0.002 is a quick check"
    )
    parser.add_argument(
        "--only", choices=tuple(STEPS), help="only this stage, and no model at the end"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    started = time.monotonic()
    try:
        figures = train(
            options.out,
            seed=options.seed,
            fraction=options.fraction,
            tell=lambda line: print(line, file=sys.stderr, flush=True),
            only=options.only,
        )
    except StreamDiffVSRError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    minutes = round((time.monotonic() - started) / 60, 1)
    print(json.dumps({"model": str(options.out / "model"), "minutes": minutes, **figures}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
