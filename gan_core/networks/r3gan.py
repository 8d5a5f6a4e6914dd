"""R3GAN (Huang et al. 2024, 2501.05441, section 3, config E): residual networks without normalisation, the same for both players.

Each stage has residual blocks of 1x1, grouped 3x3 and 1x1 convolutions with leaky ReLU between, and one change of resolution by linear
interpolation. Instead of normalisation, Fixup's initialisation (1901.09321). With `max_width: 768` the paper's FFHQ-256 is `width: 96`,
its FFHQ-64 `width: 384`, its CIFAR-10 and Stacked-MNIST `width: 768`. Interpolation is between the centres of pixels, [1, 3, 3, 1] when
doubling and [1, 1] when halving; the paper's appendix E speaks of [1, 2, 1], which moves images by half a pixel.
"""

import math
from itertools import pairwise
from typing import Annotated, NamedTuple, TypeVar

import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from gan_core.networks._projection import class_vectors, projected
from gan_core.networks._resolutions import POWERS, require_resolution

Positive = Annotated[int, Field(gt=0)]
Depth = Annotated[int, Field(gt=0, le=1000)]  # more are a mistake, or meant to use up the memory of who builds them
Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)
LEAKY_GAIN = math.sqrt(2.0 / (1.0 + 0.2**2))  # He et al. 2015 (1502.01852, eq. 15) at slope 0.2


class Stage(NamedTuple):
    """`blocks` residual blocks with `width` maps outside and `width` * expansion inside, in `groups` groups."""

    width: int
    blocks: int
    groups: int


class ResidualBlock(nn.Module):
    """x + 1x1(3x3 grouped(1x1(x))): `gain` makes the first two weights smaller, and the last ones start at zero."""

    def __init__(self, width: int, inner: int, groups: int, gain: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _scaled(nn.Conv2d(width, inner, 1), LEAKY_GAIN * gain),
            nn.LeakyReLU(0.2, inplace=True),
            _scaled(nn.Conv2d(inner, inner, 3, 1, 1, groups=groups), LEAKY_GAIN * gain),
            nn.LeakyReLU(0.2, inplace=True),
            _scaled(nn.Conv2d(inner, width, 1, bias=False), 0.0),
        )

    def forward(self, features: Float[Tensor, "batch maps height width"]) -> Float[Tensor, "batch maps height width"]:
        total: Tensor = features + self.layers(features)
        return total


class Up(nn.Module):
    """Double resolution between the pixels, and another number of maps where it changes; the 1x1 convolution first is cheaper."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.convolution = _changed(width_in, width_out)

    def forward(self, features: Float[Tensor, "batch width_in height width"]) -> Float[Tensor, "batch width_out 2*height 2*width"]:
        return functional.interpolate(self.convolution(features), scale_factor=2.0, mode="bilinear", align_corners=False)


class Down(nn.Module):
    """Half the resolution, where linear interpolation is the mean of 2x2, and another number of maps where it changes."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.convolution = _changed(width_in, width_out)

    def forward(self, features: Float[Tensor, "batch width_in height width"]) -> Float[Tensor, "batch width_out height/2 width/2"]:
        halved: Tensor = self.convolution(functional.avg_pool2d(features, 2))
        return halved


class Generator(nn.Module):
    """A learned 4x4 basis, each map scaled by a linear function of z (and of the class's embedding), then stages; no tanh."""

    def __init__(self, stages: list[Stage], channels: int, *, z_dim: int, num_classes: int, expansion: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_classes, z_dim) if num_classes else None
        self.basis = nn.Parameter(torch.randn(stages[0].width, 4, 4))
        self.modulation = _scaled(nn.Linear(z_dim * (2 if num_classes else 1), stages[0].width, bias=False), 1.0)
        gain = _fixup_gain(stages)
        layers = _blocks(stages[0], expansion, gain)
        for before, stage in pairwise(stages):
            layers += [Up(before.width, stage.width), *_blocks(stage, expansion, gain)]
        self.layers = nn.Sequential(*layers)
        self.to_image = _scaled(nn.Conv2d(stages[-1].width, channels, 1, bias=False), 1.0)

    def forward(
        self, z: Float[Tensor, "batch z_dim"], labels: Int64[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch channels height width"]:
        if self.embedding is not None:
            z = torch.cat([z, self.embedding(labels)], 1)
        images: Tensor = self.to_image(self.layers(self.basis * self.modulation(z)[:, :, None, None]))
        return images if self.training else images.clamp(-1.0, 1.0)


class Discriminator(nn.Module):
    """Stages down to 4x4, a depthwise 4x4 convolution, a linear layer; classes enter by projection (1802.05637, eq. 3)."""

    def __init__(self, stages: list[Stage], channels: int, *, num_classes: int, expansion: int) -> None:
        super().__init__()
        gain, width = _fixup_gain(stages), stages[-1].width
        layers: list[nn.Module] = [_scaled(nn.Conv2d(channels, stages[0].width, 1, bias=False), 1.0)]
        for stage, after in pairwise(stages):
            layers += [*_blocks(stage, expansion, gain), Down(stage.width, after.width)]
        head = _scaled(nn.Conv2d(width, width, 4, groups=width, bias=False), 1.0)
        self.features = nn.Sequential(*layers, *_blocks(stages[-1], expansion, gain), head, nn.Flatten())
        self.logit = _scaled(nn.Linear(width, 1, bias=False), 1.0)
        self.embedding = class_vectors(num_classes, width)

    def forward(
        self, images: Float[Tensor, "batch channels height width"], labels: Int64[Tensor, " batch"] | None = None
    ) -> Float[Tensor, " batch"]:
        features = self.features(images)
        logits: Tensor = self.logit(features).squeeze(1)
        return projected(logits, features, self.embedding, labels)


def generator(
    *,
    resolution: int,
    channels: int,
    z_dim: int,
    num_classes: int,
    width: Positive = 64,
    max_width: Positive = 512,
    widths: list[Positive] | None = None,
    blocks: Depth | list[Depth] = 2,
    expansion: Positive = 2,
    groups: list[Positive] | None = None,
) -> Generator:
    """Z [batch, z_dim] to images [batch, channels, resolution, resolution], in evaluation clamped to [-1, 1].

    There are `width` maps at the full resolution, doubled with each halving up to `max_width`; `widths` gives them instead, from 4x4
    upward, as `blocks` and `groups` may be given for each resolution. The 3x3 convolutions have `expansion` times as many, in groups of
    16 maps unless `groups` says how many groups.

    Raises:
        ValueError: a resolution that is not a power of two from 4 to 1024, a list of another length than there are resolutions, or
            groups that do not divide the maps.
    """
    stages = _stages(resolution, width=width, max_width=max_width, widths=widths, blocks=blocks, expansion=expansion, groups=groups)
    return Generator(stages, channels, z_dim=z_dim, num_classes=num_classes, expansion=expansion)


def discriminator(
    *,
    resolution: int,
    channels: int,
    num_classes: int,
    width: Positive = 64,
    max_width: Positive = 512,
    widths: list[Positive] | None = None,
    blocks: Depth | list[Depth] = 2,
    expansion: Positive = 2,
    groups: list[Positive] | None = None,
) -> Discriminator:
    """Images to logits [batch]; the generator's mirror image, and the same arguments: lists go from 4x4 upward here too.

    Raises:
        ValueError: as the generator.
    """
    stages = _stages(resolution, width=width, max_width=max_width, widths=widths, blocks=blocks, expansion=expansion, groups=groups)
    return Discriminator(stages[::-1], channels, num_classes=num_classes, expansion=expansion)


def _stages(
    resolution: int,
    *,
    width: int,
    max_width: int,
    widths: list[int] | None,
    blocks: int | list[int],
    expansion: int,
    groups: list[int] | None,
) -> list[Stage]:
    """From 4x4 upward."""
    require_resolution("r3gan", resolution, POWERS)
    sizes = [size for size in POWERS if size <= resolution]
    if widths is None:
        if width > max_width:
            raise ValueError(f"width {width} is above max_width {max_width}; raise max_width, or lower width")
        widths = [min(width * resolution // size, max_width) for size in sizes]
    counts = blocks if isinstance(blocks, list) else [blocks] * len(sizes)
    if groups is None:
        groups = [max(1, maps * expansion // 16) for maps in widths]
    for name, given in (("widths", widths), ("blocks", counts), ("groups", groups)):
        if len(given) != len(sizes):
            raise ValueError(f"{name} {given} has {len(given)} numbers; resolution {resolution} needs {len(sizes)}, for {sizes}")
    for maps, number in zip(widths, groups, strict=True):
        if maps * expansion % number:
            raise ValueError(f"{maps} x {expansion} maps cannot be divided into {number} groups; take multiples of 8, or set groups")
    return [Stage(*numbers) for numbers in zip(widths, counts, groups, strict=True)]


def _blocks(stage: Stage, expansion: int, gain: float) -> list[nn.Module]:
    return [ResidualBlock(stage.width, stage.width * expansion, stage.groups, gain) for _ in range(stage.blocks)]


def _changed(width_in: int, width_out: int) -> nn.Module:
    return nn.Identity() if width_in == width_out else _scaled(nn.Conv2d(width_in, width_out, 1, bias=False), 1.0)


def _fixup_gain(stages: list[Stage]) -> float:
    """L^(-1 / (2m - 2)) for L blocks of m = 3 convolutions (1901.09321, section 3)."""
    return float(sum(stage.blocks for stage in stages) ** -0.25)


def _scaled(layer: Layer, gain: float) -> Layer:
    """`layer` with weights from N(0, gain^2 / fan-in) and biases 0."""
    nn.init.normal_(layer.weight, 0.0, gain / math.sqrt(layer.weight[0].numel()))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
