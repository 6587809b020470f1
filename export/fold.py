"""What is constant over steps or frames, computed once: projections replaced by their tables.

`fold_denoiser` gives a network that takes a step index instead of a time embedding, and no prompt.
The original is left as it is; weights are shared, not copied. Folding happens in float32, before
any cast. Each saving and the FLOPs it is worth are in docs/performance.md.
"""

from __future__ import annotations

import copy
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from ..schedule import StepTable
from .blocks import Attention, Prompt, ResnetBlock, TransformerBlock
from .denoiser import Denoiser, as_batch

M = TypeVar("M", bound=nn.Module)


class TimeTable(nn.Module):
    """A ResNet block's time projection for every step: (1,) int32 step -> (1, C)."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.register_buffer("table", table)

    def forward(self, step: Tensor) -> Tensor:
        return cast(Tensor, self.table).index_select(0, step)


class PromptTable(nn.Module):
    """A projection of the constant prompt: (1, L, C), whatever it is given."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value)

    def forward(self, prompt: Prompt) -> Tensor:
        return cast(Tensor, self.value)


def recast(module: M, dtype: torch.dtype) -> M:
    """A copy whose weights have another dtype; where they have it already, they are shared.

    Plain tensor attributes keep theirs: that is how an fp16 graph keeps its float32 islands.
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
    """A UNet or ControlNet whose `time` is the step index (1,) int32 and whose prompt is None."""
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
