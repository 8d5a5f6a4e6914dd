"""DCGAN (Radford et al. 2015, 1511.06434): strided convolutions, batch norm, weights from N(0, 0.02^2).

Resolutions are 4, 5, 6 or 7 times a power of two, from 8 to 256: so every power of two, and MNIST's own 28 = 7 * 4. The paper
uses 64 = 4 * 16.
"""

from itertools import pairwise
from typing import Annotated, Literal

import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor, nn

from gan_core.networks._convolutions import double_to_few, spread
from gan_core.networks._projection import class_vectors, projected

Positive = Annotated[int, Field(gt=0)]
Norm = Literal["batch", "layer", "instance", "none"]
RESOLUTIONS = sorted(base * 2**doublings for base in (4, 5, 6, 7) for doublings in range(1, 7) if base * 2**doublings <= 256)


class FromOnePlace(nn.ConvTranspose2d):
    """From z, a map of one place, to the first map."""

    def forward(
        self,
        input: Float[Tensor, "batch z_dim 1 1"],
        output_size: list[int] | None = None,  # noqa: ARG002 - the signature of nn.ConvTranspose2d
    ) -> Float[Tensor, "batch maps base base"]:
        return spread(input.flatten(1), self.weight, self.bias)


class ToImage(nn.ConvTranspose2d):
    """The last doubling, to the few maps of an image."""

    def forward(
        self,
        input: Float[Tensor, "batch maps height width"],
        output_size: list[int] | None = None,  # noqa: ARG002
    ) -> Float[Tensor, "batch channels 2*height 2*width"]:
        return double_to_few(input, self.weight, self.bias)


class Generator(nn.Module):
    """z to a base x base map, then a transposed convolution for each doubling; tanh at the end."""

    def __init__(self, base: int, channels: int, *, z_dim: int, num_classes: int, widths: list[int], norm: Norm) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_classes, z_dim) if num_classes else None
        layers: list[nn.Module] = [
            FromOnePlace(z_dim, widths[0], base, bias=norm == "none"),
            *_normed(norm, widths[0]),
            nn.ReLU(inplace=True),
        ]
        for width_in, width_out in pairwise(widths):
            layers += [_doubling(width_in, width_out, norm), *_normed(norm, width_out), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers, ToImage(widths[-1], channels, 4, 2, 1), nn.Tanh())
        self.apply(_initialise)

    def forward(
        self, z: Float[Tensor, "batch z_dim"], labels: Int64[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch channels height width"]:
        if self.embedding is not None:
            z = z + self.embedding(labels)
        images: Tensor = self.layers(z[:, :, None, None])
        return images


class Discriminator(nn.Module):
    """A strided convolution for each halving, no normalisation on the first; classes enter by projection
    (1802.05637, eq. 3).
    """

    faster_together = True

    def __init__(self, base: int, channels: int, *, num_classes: int, widths: list[int], norm: Norm) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels, widths[0], 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
        for width_in, width_out in pairwise(widths):
            layers += [
                nn.Conv2d(width_in, width_out, 4, 2, 1, bias=norm == "none"),
                *_normed(norm, width_out),
                nn.LeakyReLU(0.2, inplace=True),
            ]
        self.features = nn.Sequential(*layers)
        self.logit = nn.Conv2d(widths[-1], 1, base)
        self.embedding = class_vectors(num_classes, widths[-1])
        self.apply(_initialise)

    def forward(
        self, images: Float[Tensor, "batch channels height width"], labels: Int64[Tensor, " batch"] | None = None
    ) -> Float[Tensor, " batch"]:
        features = self.features(images)
        logits: Tensor = self.logit(features).flatten()
        return projected(logits, features.sum((2, 3)), self.embedding, labels)


def generator(
    *,
    resolution: int,
    channels: int,
    z_dim: int,
    num_classes: int,
    width: Positive = 64,
    max_width: Positive = 512,
    norm: Norm = "batch",
) -> Generator:
    """Z [batch, z_dim] to images [batch, channels, resolution, resolution] in [-1, 1].

    `width` channels before the last layer, doubled towards z up to `max_width`. `norm: layer` and `instance` do not look
    across the batch, so results then do not depend on how a batch is divided over ranks.

    Raises:
        ValueError: a resolution that is not in RESOLUTIONS.
    """
    base, widths = _plan(resolution, width, max_width)
    return Generator(base, channels, z_dim=z_dim, num_classes=num_classes, widths=widths[::-1], norm=norm)


def discriminator(
    *,
    resolution: int,
    channels: int,
    num_classes: int,
    width: Positive = 64,
    max_width: Positive = 512,
    norm: Norm | None = None,
) -> Discriminator:
    """Images to logits [batch]; `width` channels after the first layer, doubled with each halving up to `max_width`.

    `norm: null` is batch, in all layers but the first; at 8x8 there are no others.

    Raises:
        ValueError: a resolution that is not in RESOLUTIONS.
    """
    base, widths = _plan(resolution, width, max_width)
    return Discriminator(base, channels, num_classes=num_classes, widths=widths, norm=norm or "batch")


def _plan(resolution: int, width: int, max_width: int) -> tuple[int, list[int]]:
    """The size of the smallest map, and the channels after each halving from `resolution` down to it."""
    if resolution not in RESOLUTIONS:
        near = sorted(sorted(RESOLUTIONS, key=lambda known: abs(known - resolution))[:2])
        raise ValueError(f"dcgan cannot make resolution {resolution}; set data.resolution to one of {RESOLUTIONS} (nearest: {near})")
    base, halvings = resolution, 0
    while base >= 8:
        base, halvings = base // 2, halvings + 1
    return base, [min(width * 2**level, max_width) for level in range(halvings)]


def _doubling(width_in: int, width_out: int, norm: Norm) -> nn.Module:
    return nn.ConvTranspose2d(width_in, width_out, 4, 2, 1, bias=norm == "none")


def _normed(norm: Norm, width: int) -> list[nn.Module]:
    if norm == "none":
        return []
    if norm == "batch":
        return [nn.BatchNorm2d(width)]
    return [nn.GroupNorm(1 if norm == "layer" else width, width)]


@torch.no_grad()
def _initialise(module: nn.Module) -> None:
    """Weights from N(0, 0.02^2) (1511.06434, section 4), gains from N(1, 0.02^2) as its released code has them, biases 0."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        module.weight.normal_(0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
        module.weight.normal_(1.0, 0.02)
    if isinstance(bias := getattr(module, "bias", None), Tensor):
        bias.zero_()
