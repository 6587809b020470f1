"""Initial weights with which RAFT derives a flow from its correlation from the first update on.

From random weights the narrow updates see mostly context; every flow they propose is wrong, so they
learn to be silent (the flow head's ReLUs die) long before they learn to use the correlation. Here
four channels carry the direction of the correlation's centre of mass, (x, -x, y, -y), straight to
the flow head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...export.raft import RAFT

CHANNELS = 4  # x, -x, y, -y: ReLUs pass one sign each
WINDOW = 1.5  # standard deviation of the offsets' weights, in cells
MOTION_GAIN, FLOW_GAIN = 0.5, 0.5


@torch.no_grad()
def read_correlation(raft: RAFT) -> None:
    """Sets those channels; the others keep their random weights."""
    motion, head = raft.update_block.motion_encoder, raft.update_block.flow_head
    readout = _conv(motion.convcorr1)
    _clear(readout)
    readout.weight[:CHANNELS, :, 0, 0] = _directions(
        raft.config.corr_block_radius, readout.weight.shape[1]
    )
    _pass_on(_conv(motion.conv), offset=0)
    for unit in raft.update_block.recurrent_block.units():
        inputs = unit.convq.in_channels - unit.hidden - raft.config.motion_encoder_out_channels
        _pass_on(unit.convq, offset=unit.hidden + inputs, gain=MOTION_GAIN)
        _clear(unit.convz)  # an even mixture of old and new
    _pass_on(head.conv1, offset=0)
    _clear(head.conv2, 2)
    for axis in (0, 1):
        row, column = (size // 2 for size in head.conv2.weight.shape[2:])
        head.conv2.weight[axis, 2 * axis, row, column] = FLOW_GAIN
        head.conv2.weight[axis, 2 * axis + 1, row, column] = -FLOW_GAIN


def _directions(radius: int, samples: int) -> Tensor:
    """Returns (CHANNELS, samples): a finest-level window's offsets, near ones weighted more."""
    steps = torch.arange(-radius, radius + 1.0)
    offsets = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), dim=-1).view(-1, 2)
    near = torch.exp(-0.5 * offsets.square().sum(1) / WINDOW**2)
    pull = (offsets * near[:, None]).T  # (2, (2r+1)^2), x first
    pull = pull / pull.abs().sum(1, keepdim=True)
    rows = torch.stack([pull[0], -pull[0], pull[1], -pull[1]])
    return nn.functional.pad(rows, (0, samples - rows.shape[1]))


def _pass_on(conv: nn.Conv2d, *, offset: int, gain: float = 1.0) -> None:
    """Sets output i to input `offset` + i, for the channels that carry the direction."""
    _clear(conv)
    row, column = (size // 2 for size in conv.weight.shape[2:])
    for i in range(CHANNELS):
        conv.weight[i, offset + i, row, column] = gain


def _conv(layer: nn.Module) -> nn.Conv2d:
    """Returns the convolution of a `conv_norm_relu`."""
    return next(module for module in layer.modules() if isinstance(module, nn.Conv2d))


def _clear(conv: nn.Conv2d, channels: int = CHANNELS) -> None:
    conv.weight[:channels] = 0
    if conv.bias is not None:
        conv.bias[:channels] = 0
