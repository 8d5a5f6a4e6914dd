"""What an augmentation is, and the pieces that several are made of."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

Images = Float[Tensor, "batch C H W"]
Uniforms = Float[Tensor, "batch draws"]
PerImage = Float[Tensor, " batch"]
Probability = Float[Tensor, ""]


class Augmentation(NamedTuple):
    """`apply(images, uniforms, probability)` changes each image by its own row of `draws` numbers from [0, 1), differentiably.

    Every transformation is taken with the given probability, independently; images are in [-1, 1] before, and may leave it.
    """

    draws: int
    apply: Callable[[Images, Uniforms, Probability], Images]


class Columns:
    """Hands out the columns of a table of uniform numbers, one after the other."""

    def __init__(self, uniforms: Uniforms) -> None:
        self.uniforms, self.next = uniforms, 0

    def uniform(self) -> PerImage:
        """From [0, 1)."""
        self.next += 1
        return self.uniforms[:, self.next - 1]

    def normal(self) -> PerImage:
        """Standard normal; the uniform number 0 counts as 2^-24, the smallest step of float32's."""
        numbers: Tensor = torch.special.ndtri(self.uniform().clamp(min=2.0**-24))
        return numbers

    def taken(self, probability: Probability) -> PerImage:
        """1 where the transformation is taken, else 0."""
        return (self.uniform() < probability).to(self.uniforms.dtype)


def mix(taken: PerImage, value: PerImage, neutral: float) -> PerImage:
    """`value` where the transformation is taken, else what changes nothing."""
    return torch.where(taken > 0.0, value, neutral)
