"""Shows a progress bar on stderr: frames, frames per second and time left."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


@contextmanager
def progress_bar(
    label: str, *, enabled: bool = True
) -> Iterator[Callable[[int, int | None], None]]:
    """Shows a bar while the block runs.

    Args:
        label: The text before the bar, such as the name of the output.
        enabled: Whether to show it; it is never shown if stderr is not a terminal.

    Yields:
        A function of (frames done, total frames or None) that moves the bar.
    """
    if not enabled or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        _Count(),
        _FramesPerSecond(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None)
        # The container's estimate may be too low: the total is never below the frames done.
        yield lambda done, total: bar.update(
            task, completed=done, total=None if total is None else max(done, total)
        )


class _Count(ProgressColumn):
    def render(self, task: Task) -> Text:
        total = "?" if task.total is None else f"{task.total:.0f}"
        return Text(f"{task.completed:.0f}/{total} frames")


class _FramesPerSecond(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("- fps" if speed is None else f"{speed:.1f} fps", style="cyan")
