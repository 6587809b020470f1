"""The training loop that all stages share: seeded, resumable, with a log and an ETA."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from ...durable import write_atomically
from ...errors import StreamDiffVSRError
from .networks import Networks

Losses = dict[str, Tensor]
Drawn = TypeVar("Drawn")
LOG_EVERY_S = 10.0
SAVE_EVERY_S = 60.0
EVALUATE_EVERY_S = 300.0  # it takes up to half a minute
WARM_UP = 0.03  # of the steps
CLIP_NORM = 0.5


class Stage(Protocol[Drawn]):
    """One stage of the training.

    Attributes:
        name: The name of its checkpoint and of its lines in the log.
        steps: How many draws of data it takes.
        groups: Parameters and learning rates, as for torch's optimizers; `start`, if there, is the
            share of the steps after which a group begins to learn.
    """

    name: str
    steps: int
    groups: list[dict[str, Any]]

    def draw(self, step: int) -> Drawn:
        """Returns a step's data, in a thread next to `losses`; it reads no weight being trained."""

    def losses(self, step: int, drawn: Drawn) -> Iterator[Losses]:
        """Yields the losses of a draw; weights are updated after each. `total` is minimised."""

    def evaluate(self) -> dict[str, float]:
        """Returns figures on the validation photographs."""


def run(
    stage: Stage[Drawn], networks: Networks, folder: Path, tell: Callable[[str], None]
) -> dict[str, float]:
    """Trains a stage to its end, starting from its checkpoint.

    Args:
        folder: Contains the checkpoint and `log.jsonl`.
        tell: Receives a line of progress from time to time.

    Returns:
        The stage's last evaluation.
    """
    checkpoint = folder / f"{stage.name}.pt"
    optimizer = torch.optim.AdamW(stage.groups, weight_decay=1e-4, betas=(0.9, 0.98))
    first = _resume(checkpoint, stage, networks, optimizer)
    peaks = [group["lr"] for group in stage.groups]
    started = logged = saved = evaluated = time.monotonic()
    for step, drawn in _draws(stage, first):
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * _rate(step / stage.steps, group.get("start", 0.0))
        for losses in stage.losses(step, drawn):
            _update(losses["total"], optimizer)
        now = time.monotonic()
        if now - logged > LOG_EVERY_S or step in (first, stage.steps - 1):
            logged = now
            left = (now - started) / (step + 1 - first) * (stage.steps - step - 1)
            _log(folder, stage, step, losses)
            tell(f"{stage.name} {step + 1}/{stage.steps} {_shown(losses)} ETA {left / 60:.1f} min")
        if now - saved > SAVE_EVERY_S:
            saved = now
            _save(checkpoint, step + 1, stage, networks, optimizer)
        if now - evaluated > EVALUATE_EVERY_S:
            evaluated = now
            figures = stage.evaluate()
            _log(folder, stage, step, figures)
            tell(f"{stage.name} {step + 1}/{stage.steps} {figures}")
    if first < stage.steps:
        _save(checkpoint, stage.steps, stage, networks, optimizer)
    figures = stage.evaluate()
    _log(folder, stage, stage.steps, figures)
    tell(f"{stage.name} done: {figures}")
    return figures


def _draws(stage: Stage[Drawn], first: int) -> Iterator[tuple[int, Drawn]]:
    """Yields every step's data; the next is drawn while this one is used."""
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(stage.draw, first)
        for step in range(first, stage.steps):
            drawn = ahead.result()
            if step + 1 < stage.steps:
                ahead = pool.submit(stage.draw, step + 1)
            yield step, drawn


def load_finished(stage: Stage[Any], networks: Networks, folder: Path) -> None:
    """Loads what a stage has learnt into the networks, from its checkpoint.

    Raises:
        StreamDiffVSRError: It has no checkpoint here, or one that is not at its last step.
    """
    checkpoint = folder / f"{stage.name}.pt"
    step = _restore(checkpoint, stage, networks)["step"] if checkpoint.is_file() else 0
    if step < stage.steps:
        raise StreamDiffVSRError(
            f"stage {stage.name} is not finished in {folder}",
            f"{step} of its {stage.steps} steps are done, and this stage starts from its end",
            f"run it first: --only {stage.name}",
        )


def _update(total: Tensor, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad(set_to_none=True)
    total.backward()  # type: ignore[no-untyped-call]
    for group in optimizer.param_groups:
        torch.nn.utils.clip_grad_norm_(group["params"], CLIP_NORM)
    optimizer.step()


def _rate(done: float, start: float) -> float:
    """Returns nothing before `start`, then rises linearly, then falls linearly to nothing."""
    done = (done - start) / (1 - start)
    return max(0.0, min(done / WARM_UP, (1 - done) / (1 - WARM_UP)))


def _learnt(stage: Stage[Any], networks: Networks) -> dict[str, torch.nn.Parameter]:
    """Returns the parameters that a stage trains, by name, which are all in its checkpoint."""
    mine = {id(parameter) for group in stage.groups for parameter in group["params"]}
    return {name: p for name, p in networks.named_parameters() if id(p) in mine}


def _resume(
    checkpoint: Path, stage: Stage[Any], networks: Networks, optimizer: torch.optim.Optimizer
) -> int:
    if not checkpoint.is_file():
        return 0
    saved = _restore(checkpoint, stage, networks)
    optimizer.load_state_dict(saved["optimizer"])
    return int(saved["step"])


def _restore(checkpoint: Path, stage: Stage[Any], networks: Networks) -> dict[str, Any]:
    saved: dict[str, Any] = torch.load(checkpoint, weights_only=True)
    with torch.no_grad():
        for name, parameter in _learnt(stage, networks).items():
            parameter.copy_(saved["weights"][name])
    return saved


def _save(
    checkpoint: Path,
    step: int,
    stage: Stage[Any],
    networks: Networks,
    optimizer: torch.optim.Optimizer,
) -> None:
    weights = {name: p.detach() for name, p in _learnt(stage, networks).items()}
    with write_atomically(checkpoint) as part:
        torch.save({"step": step, "weights": weights, "optimizer": optimizer.state_dict()}, part)


def _shown(losses: Losses) -> str:
    return " ".join(f"{name} {loss.item():.4f}" for name, loss in losses.items())


def _log(folder: Path, stage: Stage[Any], step: int, values: Losses | dict[str, float]) -> None:
    numbers = {
        name: round(float(value.detach() if isinstance(value, Tensor) else value), 5)
        for name, value in values.items()
    }
    with (folder / "log.jsonl").open("a", encoding="utf-8") as log:
        log.write(json.dumps({"stage": stage.name, "step": step, **numbers}) + "\n")
