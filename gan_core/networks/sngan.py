"""The residual networks of spectrally normalised GANs (Miyato et al. 2018, 1802.05957, appendix B.4), after WGAN-GP's (1704.00028).

Sizes are those of the paper's tables 4 (32), 5 (48) and 6 (128), and 64 in their manner. The spectral norm itself is
`regularizers.spectral_norm: true`, which the variant `sngan_hinge` sets.
"""

import math
from itertools import pairwise
from typing import Annotated, Literal, NamedTuple

import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from gan_core.networks._convolutions import convolve_and_halve, convolve_doubled
from gan_core.networks._projection import class_vectors, projected
from gan_core.networks._resolutions import require_resolution

Positive = Annotated[int, Field(gt=0)]
Norm = Literal["batch", "layer", "instance", "none"]


class Sizes(NamedTuple):
    """In multiples of `width`: maps at `base` x `base` and after each of the generator's blocks, which double; maps after each of the
    discriminator's blocks, of which the first `halvings` halve.
    """

    base: int
    generator: tuple[int, ...]
    discriminator: tuple[int, ...]
    halvings: int


SIZES = {
    32: Sizes(4, (4, 4, 4, 4), (2, 2, 2, 2), 2),
    48: Sizes(6, (8, 4, 2, 1), (1, 2, 4, 8, 16), 4),
    64: Sizes(4, (16, 8, 4, 2, 1), (1, 2, 4, 8, 16), 4),
    128: Sizes(4, (16, 16, 8, 4, 2, 1), (1, 2, 4, 8, 16, 16), 5),
}


class Normalisation(nn.Module):
    """Normalises, then scales and shifts each map: by learned numbers, or by those of the image's class where there are classes
    (1610.07629, eq. 5).
    """

    def __init__(self, width: int, num_classes: int, norm: Norm) -> None:
        super().__init__()
        kinds: dict[Norm, nn.Module] = {
            "batch": nn.BatchNorm2d(width, affine=False),
            "layer": nn.GroupNorm(1, width, affine=False),
            "instance": nn.GroupNorm(width, width, affine=False),
            "none": nn.Identity(),
        }
        self.normalise = kinds[norm]
        self.gain = nn.Embedding.from_pretrained(torch.ones(max(num_classes, 1), width), freeze=False)
        self.bias = nn.Embedding.from_pretrained(torch.zeros(max(num_classes, 1), width), freeze=False)

    def forward(
        self, features: Float[Tensor, "batch width height width_"], labels: Int64[Tensor, " batch"]
    ) -> Float[Tensor, "batch width height width_"]:
        if isinstance(self.normalise, nn.BatchNorm2d) and len(self.gain.weight) == 1:
            return _scaled(self.normalise, features, self.gain.weight[0], self.bias.weight[0])
        gain, bias = (numbers(labels).to(features.dtype)[:, :, None, None] for numbers in (self.gain, self.bias))
        scaled: Tensor = self.normalise(features) * gain + bias
        return scaled


def _scaled(norm: nn.BatchNorm2d, features: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    """`norm`, then one gain and bias for all images: a pass over the maps less than by themselves."""
    if norm.training and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    return functional.batch_norm(features, norm.running_mean, norm.running_var, gain, bias, norm.training, norm.momentum or 0.0, norm.eps)


class UpBlock(nn.Module):
    """Figure 8 of the paper, doubling: normalisation, ReLU, nearest neighbours, 3x3, normalisation, ReLU, 3x3; beside it 1x1.

    Doubling and the 3x3 convolution after it are computed as one, as are those and the mean in DownBlock.
    """

    def __init__(self, width_in: int, width_out: int, num_classes: int, norm: Norm) -> None:
        super().__init__()
        self.first_norm, self.second_norm = (Normalisation(width, num_classes, norm) for width in (width_in, width_out))
        self.first, self.second = nn.Conv2d(width_in, width_out, 3, 1, 1), nn.Conv2d(width_out, width_out, 3, 1, 1)
        self.skip = nn.Conv2d(width_in, width_out, 1)

    def forward(
        self, features: Float[Tensor, "batch width_in height width"], labels: Int64[Tensor, " batch"]
    ) -> Float[Tensor, "batch width_out 2*height 2*width"]:
        inner = convolve_doubled(functional.relu(self.first_norm(features, labels), inplace=True), self.first.weight, self.first.bias)
        inner = self.second(functional.relu(self.second_norm(inner, labels), inplace=True))
        total: Tensor = inner + _doubled(self.skip(features))  # a 1x1 convolution and doubling commute, and this order is cheaper
        return total


class DownBlock(nn.Module):
    """ReLU, 3x3, ReLU, 3x3, a mean over 2x2 where it halves; beside it a 1x1 convolution unless nothing changes.

    The `first` block begins with its convolution: there is nothing to rectify in an image.
    """

    def __init__(self, width_in: int, width_out: int, *, halves: bool, first: bool = False) -> None:
        super().__init__()
        inner = width_out if first else width_in
        before: nn.Module = nn.Identity() if first else nn.ReLU()
        self.layers = nn.Sequential(
            before, nn.Conv2d(width_in, inner, 3, 1, 1), nn.ReLU(inplace=True), nn.Conv2d(inner, width_out, 3, 1, 1)
        )
        self.skip = nn.Conv2d(width_in, width_out, 1) if halves or width_in != width_out else nn.Identity()
        self.halve = nn.AvgPool2d(2) if halves else nn.Identity()

    def forward(self, features: Float[Tensor, "batch width_in height width"]) -> Float[Tensor, "batch width_out out_height out_width"]:
        if isinstance(self.halve, nn.Identity):
            unchanged: Tensor = self.layers(features) + self.skip(features)
            return unchanged
        last = self.layers[-1]
        assert isinstance(last, nn.Conv2d)
        halved: Tensor = convolve_and_halve(self.layers[:-1](features), last.weight, last.bias) + self.skip(self.halve(features))
        return halved


class Generator(nn.Module):
    """z through a linear layer to a base x base map, doubling blocks, normalisation, ReLU, 3x3, tanh."""

    def __init__(self, base: int, widths: list[int], channels: int, *, z_dim: int, num_classes: int, norm: Norm) -> None:
        super().__init__()
        self.shape = (widths[0], base, base)
        self.conditional = num_classes > 0
        self.dense = nn.Linear(z_dim, math.prod(self.shape))
        self.blocks = nn.ModuleList(UpBlock(width_in, width_out, num_classes, norm) for width_in, width_out in pairwise(widths))
        self.norm = Normalisation(widths[-1], num_classes, norm)
        self.last = nn.Conv2d(widths[-1], channels, 3, 1, 1)
        _initialise(self)

    def forward(
        self, z: Float[Tensor, "batch z_dim"], labels: Int64[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch channels height width"]:
        if not self.conditional:
            labels = z.new_zeros(z.shape[0], dtype=torch.int64)
        features: Tensor = self.dense(z).unflatten(1, self.shape)
        for block in self.blocks:
            features = block(features, labels)
        images: Tensor = self.last(functional.relu(self.norm(features, labels), inplace=True))
        return images.tanh()


class Discriminator(nn.Module):
    """Residual blocks, ReLU, the sum over all places, a linear layer; classes enter by projection (1802.05637, eq. 3)."""

    faster_together = True

    def __init__(self, widths: list[int], halvings: int, channels: int, *, num_classes: int) -> None:
        super().__init__()
        blocks = [
            DownBlock(width_in, width_out, halves=index < halvings, first=index == 0)
            for index, (width_in, width_out) in enumerate(pairwise([channels, *widths]))
        ]
        self.features = nn.Sequential(*blocks, nn.ReLU(inplace=True))
        self.logit = nn.Linear(widths[-1], 1)
        self.embedding = class_vectors(num_classes, widths[-1])
        _initialise(self)

    def forward(
        self, images: Float[Tensor, "batch channels height width"], labels: Int64[Tensor, " batch"] | None = None
    ) -> Float[Tensor, " batch"]:
        features = self.features(images).sum((2, 3))
        logits: Tensor = self.logit(features).squeeze(1)
        return projected(logits, features, self.embedding, labels)


def generator(
    *,
    resolution: int,
    channels: int,
    z_dim: int,
    num_classes: int,
    width: Positive = 64,
    norm: Norm = "batch",
) -> Generator:
    """Z [batch, z_dim] to images [batch, channels, resolution, resolution] in [-1, 1].

    `width` 64 gives the paper's sizes, others the same in proportion. `norm: layer` and `instance` do not look across the batch, so
    results then do not depend on how a batch is divided over ranks.

    Raises:
        ValueError: a resolution that is not in SIZES.
    """
    sizes = _sizes(resolution)
    widths = [width * multiple for multiple in sizes.generator]
    return Generator(sizes.base, widths, channels, z_dim=z_dim, num_classes=num_classes, norm=norm)


def discriminator(*, resolution: int, channels: int, num_classes: int, width: Positive = 64) -> Discriminator:
    """Images to logits [batch]; `width` 64 gives the paper's sizes.

    Raises:
        ValueError: a resolution that is not in SIZES.
    """
    sizes = _sizes(resolution)
    return Discriminator([width * multiple for multiple in sizes.discriminator], sizes.halvings, channels, num_classes=num_classes)


def _sizes(resolution: int) -> Sizes:
    require_resolution("sngan", resolution, sorted(SIZES))
    return SIZES[resolution]


def _doubled(features: Float[Tensor, "batch width height width_"]) -> Float[Tensor, "batch width 2*height 2*width_"]:
    return functional.interpolate(features, scale_factor=2.0, mode="nearest")


def _initialise(network: nn.Module) -> None:
    """Uniform weights after Glorot and Bengio (2010), with gain sqrt(2) inside blocks, as the paper's released code has them; biases 0."""
    blocks = [block for block in network.modules() if isinstance(block, UpBlock | DownBlock)]
    of_blocks = {layer for block in blocks for layer in block.modules() if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3)}
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            inside = module in of_blocks
            nn.init.xavier_uniform_(module.weight, math.sqrt(2.0) if inside else 1.0)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
