"""Convolutions joined with the change of resolution beside them, or written as another one: the same numbers up to rounding, sooner.

A 3x3 convolution next to nearest-neighbour doubling, or to the mean over 2x2, is one 4x4 convolution with stride 2: 4 products for 9.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def convolve_doubled(
    features: Float[Tensor, "batch maps_in height width"],
    weight: Float[Tensor, "maps_out maps_in 3 3"],
    bias: Float[Tensor, " maps_out"] | None,
) -> Float[Tensor, "batch maps_out 2*height 2*width"]:
    """The 3x3 convolution with padding 1 of `features` doubled to nearest neighbours."""
    return functional.conv_transpose2d(features, _summed(weight).flip(2, 3).transpose(0, 1), bias, 2, 1)


def convolve_and_halve(
    features: Float[Tensor, "batch maps_in height width"],
    weight: Float[Tensor, "maps_out maps_in 3 3"],
    bias: Float[Tensor, " maps_out"] | None,
) -> Float[Tensor, "batch maps_out height/2 width/2"]:
    """The mean over 2x2 of the 3x3 convolution with padding 1; height and width are even."""
    return functional.conv2d(features, _summed(weight) / 4.0, bias, 2, 1)


def _summed(weight: Float[Tensor, "maps_out maps_in 3 3"]) -> Float[Tensor, "maps_out maps_in 4 4"]:
    """The sum of the kernel's four shifts by 0 or 1 on each axis: its full convolution with a 2x2 kernel of ones."""
    rows = functional.pad(weight, (0, 0, 0, 1)) + functional.pad(weight, (0, 0, 1, 0))
    return (functional.pad(rows, (0, 1)) + functional.pad(rows, (1, 0))).contiguous(memory_format=torch.channels_last)


def spread(
    vectors: Float[Tensor, "batch width"],
    weight: Float[Tensor, "width maps height width_"],
    bias: Float[Tensor, " maps"] | None,
) -> Float[Tensor, "batch maps height width_"]:
    """The transposed convolution of a map of one place, as the matrix product that it is."""
    _, maps, height, width = weight.shape
    placed = vectors @ weight.permute(0, 2, 3, 1).reshape(len(weight), height * width * maps)
    features = placed.view(-1, height, width, maps).permute(0, 3, 1, 2)
    return features if bias is None else features + bias[:, None, None]


def double_to_few(
    features: Float[Tensor, "batch maps_in height width"],
    weight: Float[Tensor, "maps_in maps_out 4 4"],
    bias: Float[Tensor, " maps_out"] | None,
) -> Float[Tensor, "batch maps_out 2*height 2*width"]:
    """The 4x4 transposed convolution with stride 2 and padding 1, where `maps_out` is small: a 2x2 convolution to 4 maps for each, which
    are the four places of each 2x2. Libraries' transposed kernels have hardly anything to work on with 1 or 3 maps.
    """
    maps_in, maps_out = weight.shape[:2]
    phases = weight.view(maps_in, maps_out, 2, 2, 2, 2).permute(1, 3, 5, 0, 2, 4).flip(4, 5).reshape(maps_out * 4, maps_in, 2, 2)
    doubled = functional.conv2d(features, phases.contiguous(memory_format=torch.channels_last), None, 1, 1)
    images = functional.pixel_shuffle(doubled, 2)[:, :, 1:-1, 1:-1]
    return images if bias is None else images + bias[:, None, None]
