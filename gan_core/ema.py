"""The exponential moving average of the generator, with a half-life in thousands of real images."""

import copy

import torch
from torch import nn

RAMP_UP = 0.05  # the half-life is at most this share of the images seen, so that early averages forget the start (1912.04958)


def average_of(network: nn.Module) -> nn.Module:
    """A copy that starts the average: no gradients, evaluation mode."""
    return copy.deepcopy(network).requires_grad_(False).eval()


@torch.no_grad()
def update(average: nn.Module, network: nn.Module, *, images: int, images_seen: int, halflife_kimg: float | None) -> None:
    """Move `average` towards `network` after `images` more real images, `images_seen` in all.

    Parameters and floating-point buffers are averaged alike, so that batch-norm statistics belong to the averaged weights;
    integer buffers are copied. A half-life of None copies everything: no averaging.
    """
    halflife = 0.0 if halflife_kimg is None else min(halflife_kimg * 1000.0, images_seen * RAMP_UP)
    weight = 1.0 - 0.5 ** (images / halflife) if halflife > 0.0 else 1.0
    ours, theirs = list(average.parameters()), list(network.parameters())
    for mine, other in zip(average.buffers(), network.buffers(), strict=True):
        if mine.is_floating_point():
            ours.append(mine)  # type: ignore[arg-type]
            theirs.append(other)  # type: ignore[arg-type]
        else:
            mine.copy_(other)
    torch._foreach_lerp_(ours, theirs, weight)
