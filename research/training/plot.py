"""Plots the losses and the validation figures of a training as one picture."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

SMOOTHING = 15  # logged losses per plotted point: single batches differ more than epochs do

Series = dict[str, list[tuple[int, float]]]


def read_log(path: Path) -> dict[str, tuple[Series, Series]]:
    """Reads `log.jsonl`: stage -> its losses and its validation figures, name -> (step, value)s."""
    stages: dict[str, tuple[Series, Series]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        entry: dict[str, Any] = json.loads(line)
        stage, step = entry.pop("stage"), entry.pop("step")
        losses, figures = stages.setdefault(stage, (defaultdict(list), defaultdict(list)))
        for name, value in entry.items():
            (losses if "total" in entry else figures)[name].append((step, value))
    return stages


def plot(log: Path, picture: Path) -> None:
    """Plots one column per stage: its losses above, its validation figures below."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    stages = read_log(log)
    figure, axes = pyplot.subplots(2, len(stages), figsize=(5 * len(stages), 7), squeeze=False)
    for column, (stage, (losses, figures)) in enumerate(stages.items()):
        for row, series in enumerate((losses, figures)):
            for name, points in series.items():
                steps, values = zip(*(points if row else smooth(points)), strict=True)
                alone = "o" if len(steps) == 1 else None  # a line through one point shows nothing
                axes[row][column].plot(steps, values, marker=alone, label=name)
        axes[0][column].set_title(stage)
        axes[0][column].set_yscale("log")
        for row in (0, 1):
            axes[row][column].legend(fontsize=8)
            axes[row][column].grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(picture, dpi=80)
    pyplot.close(figure)


def smooth(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Returns means of `SMOOTHING` neighbouring points."""
    groups = [points[i : i + SMOOTHING] for i in range(0, len(points), SMOOTHING)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]
