"""Path length regularisation of generators with a w space (Karras et al. 2020, 1912.04958, section 3.2)."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gan_core.datatypes import Batch
from gan_core.keyed_noise import keys, normals

DECAY = 0.99  # of the running mean of lengths: 1912.04958, appendix B
STREAM = 2**20 + 1  # of random numbers: none that a network uses


class PathLength(NamedTuple):
    """The penalty at every `interval`-th generator step; `mean` [1] is the running mean a of eq. 4, on the device."""

    weight: float
    interval: int
    mean: Float[Tensor, "1"]


def path_lengths(generator: nn.Module, latents: Batch) -> Float[Tensor, " batch"]:
    """|J_w^T y| of each image, w having a copy for each layer, in a graph that can be trained on.

    y is N(0, 1 / pixels) and a function of z; the square is the mean over the layers. With these scales a weight of 2 is the paper's
    gamma = log 2 / (r^2 (log r - log 2)) for a sum over layers and y from N(0, 1) (appendix B).
    """
    with torch.enable_grad():
        w = generator.map(latents.inputs, latents.labels)  # type: ignore[operator]
        copies = w[:, None].expand(-1, generator.layers, -1)
        noise_keys = keys(latents.inputs)
        images = generator.synthesise(copies, noise_keys)  # type: ignore[operator]
        y = normals(noise_keys, STREAM, *images.shape[1:]).to(images.dtype) / images[0, 0].numel() ** 0.5
        (slope,) = torch.autograd.grad((images * y).sum(), copies, create_graph=True)
    length: Tensor = slope.square().sum(2).mean(1).sqrt()
    return length


def penalty(lengths: Float[Tensor, " batch"], path: PathLength) -> Float[Tensor, ""]:
    """The mean of (|J_w^T y| - a)^2 (1912.04958, eq. 4), a being the running mean before these."""
    return (lengths - path.mean).square().mean()
