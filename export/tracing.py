"""What tracing a module needs around it, whichever form the graph is written in."""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor

from ..spec import GraphSpec
from .golden import TORCH


def example_inputs(spec: GraphSpec) -> tuple[Tensor, ...]:
    """Zeros for every input of a graph."""
    return tuple(torch.zeros(s.shape, dtype=TORCH[s.dtype]) for s in spec.inputs)


@contextlib.contextmanager
def tracing() -> Iterator[None]:
    """A trace in silence, without the collection of garbage.

    Tracing makes millions of objects that stay: looking for garbage costs a quarter of it. The
    exporters talk of torchvision and of pass counts; none of it is for a user.
    """
    collected, previous = gc.isenabled(), logging.root.manager.disable
    logging.disable(logging.WARNING)
    gc.disable()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
        if collected:
            gc.enable()
        gc.collect()
