"""Truncation: fewer kinds of images for better ones, by drawing nearer to the middle of the latent space.

Generators that map z to w are truncated in w, about its mean (1812.04948, appendix B; per class where there are classes); others in z, to
a normal cut at so many standard deviations. Either way an image stays a function of its seed.
"""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from gan_core import keyed_noise, sampling

CENTRE_SEEDS, CENTRE_FIRST_SEED = 10_000, 3 * 2**33  # beyond those of pictures, scores and `raygan evaluate`
AT_ONCE = 1000


@runtime_checkable
class HasW(Protocol):
    """A generator of two parts: its image of z is `synthesise(map(z, labels), keyed_noise.keys(z))`, in [-1, 1] once it is clamped.

    `map` gives w [batch, w_dim]; `synthesise` also takes [batch, layers, w_dim], and one noise for all images where keys are None.
    """

    def map(self, z: Tensor, labels: Tensor | None = None) -> Tensor: ...

    def synthesise(self, w: Tensor, keys: Tensor | None = None) -> Tensor: ...


def truncated_normal(z: Float[Tensor, "batch z_dim"], threshold: Float[Tensor, ""]) -> Float[Tensor, "batch z_dim"]:
    """Standard normal z as draws from the normal cut at +-`threshold` standard deviations, by the inverse distribution function.

    The order of values is kept, and infinity changes nothing. The trick of 1809.11096, section 3.1, which redraws what falls outside, has
    the same distribution, but its image is not one of the seed's z alone. Computed in the lower tail, in float64: Phi(5) rounds to 1.
    """
    bound = torch.special.ndtr(-threshold.double())
    tail = bound + torch.special.ndtr(-z.double().abs()) * (1.0 - 2.0 * bound)
    return torch.where(torch.isinf(threshold), z, (-torch.special.ndtri(tail) * z.sign()).to(z.dtype))


def shrunk(
    w: Float[Tensor, "batch w_dim"], centre: Float[Tensor, "#batch w_dim"], truncation: Float[Tensor, ""]
) -> Float[Tensor, "batch w_dim"]:
    """W' = centre + truncation (w - centre): 1 changes nothing, 0 leaves the centre alone."""
    return torch.where(truncation == 1.0, w, centre + truncation * (w - centre))


class TruncatedInZ(nn.Module):
    """`generator` with a third argument, the threshold in standard deviations; infinity is off."""

    off = float("inf")

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(
        self, z: Float[Tensor, "batch z_dim"], labels: Int64[Tensor, " batch"] | None, truncation: Float[Tensor, ""]
    ) -> Float[Tensor, "batch channels height width"]:
        images: Tensor = self.generator(truncated_normal(z, truncation), labels)
        return images


class TruncatedInW(nn.Module):
    """`generator` with a third argument, the factor about `centre` [classes or 1, w_dim]; 1 is off."""

    off = 1.0
    centre: Tensor

    def __init__(self, generator: nn.Module, centre: Float[Tensor, "classes w_dim"]) -> None:
        super().__init__()
        self.generator = generator
        self.register_buffer("centre", centre)

    def forward(
        self, z: Float[Tensor, "batch z_dim"], labels: Int64[Tensor, " batch"] | None, truncation: Float[Tensor, ""]
    ) -> Float[Tensor, "batch channels height width"]:
        return self.synthesise(self.map(z, labels, truncation), keyed_noise.keys(z))

    def map(
        self, z: Float[Tensor, "batch z_dim"], labels: Int64[Tensor, " batch"] | None, truncation: Float[Tensor, ""]
    ) -> Float[Tensor, "batch w_dim"]:
        """The truncated w."""
        assert isinstance(self.generator, HasW)
        return shrunk(self.generator.map(z, labels), self.centre if labels is None else self.centre[labels], truncation)

    def synthesise(
        self, w: Float[Tensor, "batch *layers w_dim"], keys: Int64[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch channels height width"]:
        """The images of w, in [-1, 1]."""
        assert isinstance(self.generator, HasW)
        return self.generator.synthesise(w, keys).clamp(-1.0, 1.0)


Truncated = TruncatedInZ | TruncatedInW


def truncatable(generator: nn.Module, *, z_dim: int, num_classes: int) -> Truncated:
    """`generator` with truncation in the space that it has. For w this computes the centre, on the generator's device."""
    if not isinstance(generator, HasW):
        return TruncatedInZ(generator)
    return TruncatedInW(generator, centre_of(generator, z_dim=z_dim, num_classes=num_classes))


@torch.no_grad()
def centre_of(generator: nn.Module, *, z_dim: int, num_classes: int) -> Float[Tensor, "classes w_dim"]:
    """The mean of w over CENTRE_SEEDS fixed seeds, a row for each class (one row where there are none)."""
    assert isinstance(generator, HasW)
    place = next(generator.parameters())
    sums: list[Tensor] = [torch.zeros((), device=place.device)] * max(num_classes, 1)
    for first in range(0, CENTRE_SEEDS, AT_ONCE):
        z = sampling.latents_of_seeds(CENTRE_FIRST_SEED + first, AT_ONCE, z_dim=z_dim).to(place.device, place.dtype)
        for number, total in enumerate(sums):
            labels = torch.full((AT_ONCE,), number, device=place.device) if num_classes else None
            sums[number] = total + generator.map(z, labels).double().sum(0)
    return torch.stack(sums).div(CENTRE_SEEDS).to(place.dtype)


def require_truncation(generator: nn.Module, truncation: float | None) -> float:
    """`truncation` for this generator, made truncatable or not; for None the value that changes nothing.

    Raises:
        ValueError: it is not one for the space that the generator is truncated in.
    """
    in_w = isinstance(generator, HasW)
    if truncation is None:
        return TruncatedInW.off if in_w else TruncatedInZ.off
    if in_w and not 0.0 <= truncation <= 1.0:
        raise ValueError(f"truncation: this generator's w is drawn to its mean by a factor from 0 to 1 (off), given {truncation:g}")
    if not in_w and not truncation > 0.0:
        raise ValueError(f"truncation: this generator's z is cut at so many standard deviations, above 0, such as 1, given {truncation:g}")
    return truncation
