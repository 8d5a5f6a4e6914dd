"""StyleGAN2 (Karras et al. 2020, 1912.04958): a mapping network, modulated convolutions, sums of RGB images; a residual discriminator.

Config E of the paper has `capacity: 16384`, config F twice that. Where there are classes, the label's embedding stands beside z in the
mapping network (2006.06676, appendix B), and the discriminator takes a projection.
"""

import math
from itertools import pairwise
from typing import Annotated

import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from gan_core import keyed_noise
from gan_core.networks._equalised import EPSILON, EqualisedConv, EqualisedLinear, ModulatedConv, full_precision
from gan_core.networks._filters import Blur, doubled
from gan_core.networks._projection import class_vectors, projected
from gan_core.networks._resolutions import POWERS, require_resolution

Positive = Annotated[int, Field(gt=0)]
Depth = Annotated[int, Field(gt=0, le=1000)]  # more are a mistake, or meant to use up the memory of who builds them
MIXED, SECOND_Z, FIRST_NOISE = 0, 1, 2  # streams of random numbers; noise input i has FIRST_NOISE + i


class Mapping(nn.Module):
    """z, at length sqrt(z_dim), and the label's embedding, at length sqrt(w_dim), to w through `layers` layers of width w_dim."""

    def __init__(self, z_dim: int, num_classes: int, w_dim: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_classes, w_dim) if num_classes else None
        first = z_dim + (w_dim if num_classes else 0)
        self.layers = nn.ModuleList(EqualisedLinear(width, w_dim, lr_multiplier=0.01) for width in [first] + [w_dim] * (layers - 1))

    def forward(self, z: Float[Tensor, "batch z_dim"], labels: Int64[Tensor, " batch"] | None = None) -> Float[Tensor, "batch w_dim"]:
        with full_precision(z.device):
            w = _normalised(z)
            if self.embedding is not None:
                w = torch.cat([w, _normalised(self.embedding(labels))], 1)
            for layer in self.layers:
                w = _activated(layer(w))
        return w


class StyledLayer(nn.Module):
    """A modulated convolution, then noise at a learned strength, a bias and the activation."""

    def __init__(self, width_in: int, width_out: int, w_dim: int, *, up: bool, stream: int | None) -> None:
        super().__init__()
        self.convolution = ModulatedConv(width_in, width_out, 3, w_dim, up=up)
        self.bias = nn.Parameter(torch.zeros(width_out))
        self.stream = stream
        self.noise_strength = None if stream is None else nn.Parameter(torch.zeros(()))

    def forward(
        self, features: Float[Tensor, "batch width_in height width"], w: Float[Tensor, "batch w_dim"], keys: Int64[Tensor, " batch"]
    ) -> Float[Tensor, "batch width_out out_height out_width"]:
        features = self.convolution(features, w)
        if self.noise_strength is not None and self.stream is not None:
            noise = keyed_noise.normals(keys, self.stream, 1, *features.shape[2:], dtype=self.noise_strength.dtype)
            features = features + (self.noise_strength * noise).to(features.dtype)
        return _activated(features + self.bias.to(features.dtype)[:, None, None])


class ToRgb(nn.Module):
    """A modulated 1x1 convolution to image channels, without demodulation."""

    def __init__(self, width: int, channels: int, w_dim: int) -> None:
        super().__init__()
        self.convolution = ModulatedConv(width, channels, 1, w_dim, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(
        self, features: Float[Tensor, "batch features height width"], w: Float[Tensor, "batch w_dim"]
    ) -> Float[Tensor, "batch channels height width"]:
        return _full_precision(self.convolution(features, w)) + self.bias[:, None, None]


class Generator(nn.Module):
    """`map` makes w from z, `synthesise` an image from w; `layers` of them are used, and RGB layers share that of the next layer."""

    def __init__(
        self,
        widths: list[int],
        channels: int,
        *,
        z_dim: int,
        num_classes: int,
        w_dim: int,
        mapping_layers: int,
        style_mixing: float,
        noise: bool,
    ) -> None:
        super().__init__()
        self.mapping = Mapping(z_dim, num_classes, w_dim, mapping_layers)
        self.constant = nn.Parameter(torch.randn(widths[0], 4, 4))
        convolutions = [(widths[0], widths[0], False)]
        for width_in, width_out in pairwise(widths):
            convolutions += [(width_in, width_out, True), (width_out, width_out, False)]
        self.styled = nn.ModuleList(
            StyledLayer(width_in, width_out, w_dim, up=up, stream=FIRST_NOISE + index if noise else None)
            for index, (width_in, width_out, up) in enumerate(convolutions)
        )
        self.to_rgb = nn.ModuleList(ToRgb(width, channels, w_dim) for width in widths)
        self.layers = 2 * len(widths)
        self.z_dim, self.style_mixing = z_dim, style_mixing

    def forward(
        self, z: Float[Tensor, "batch z_dim"], labels: Int64[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch channels height width"]:
        images = self.synthesise(self.styles(z, labels), self.noise_keys(z))
        return images if self.training else images.clamp(-1.0, 1.0)

    def map(self, z: Float[Tensor, "batch z_dim"], labels: Int64[Tensor, " batch"] | None = None) -> Float[Tensor, "batch w_dim"]:
        """The w of each z."""
        w: Tensor = self.mapping(z, labels)
        return w

    @staticmethod
    def noise_keys(z: Float[Tensor, "batch z_dim"]) -> Int64[Tensor, " batch"]:
        """What chooses the noise inputs of each z's image."""
        return keyed_noise.keys(z)

    def styles(self, z: Float[Tensor, "batch z_dim"], labels: Int64[Tensor, " batch"] | None = None) -> Float[Tensor, "batch layers w_dim"]:
        """The w of each layer. In training some images take another z's from a random layer on (1812.04948, section 3.1).

        Whether, from which layer on and which other z are functions of z.
        """
        w = self.map(z, labels)[:, None].expand(-1, self.layers, -1)
        if not self.training or self.style_mixing == 0.0:
            return w
        keys = keyed_noise.keys(z)
        chance, place = keyed_noise.uniforms(keys, MIXED, 2).unbind(1)
        crossover = torch.where(chance < self.style_mixing, 1 + (place * (self.layers - 1)).long(), self.layers)
        other = self.map(keyed_noise.normals(keys, SECOND_Z, self.z_dim, dtype=z.dtype), labels)
        from_there_on = torch.arange(self.layers, device=z.device) >= crossover[:, None]
        return torch.where(from_there_on[:, :, None], other[:, None], w)

    def synthesise(
        self, w: Float[Tensor, "batch *layers w_dim"], keys: Int64[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch channels height width"]:
        """Images, unbounded, from one w for all layers or one for each; `keys` choose the noise inputs, and None is key 0 for all."""
        if w.ndim == 2:
            w = w[:, None].expand(-1, self.layers, -1)
        if keys is None:
            keys = w.new_zeros(w.shape[0], dtype=torch.int64)
        features = self.constant.expand(w.shape[0], -1, -1, -1)
        features = self.styled[0](features, w[:, 0], keys)
        images: Tensor = self.to_rgb[0](features, w[:, 1])
        for block in range(1, len(self.to_rgb)):
            first = 2 * block - 1
            features = self.styled[first](features, w[:, first], keys)
            features = self.styled[first + 1](features, w[:, first + 1], keys)
            images = doubled(images) + self.to_rgb[block](features, w[:, first + 2])
        return images


class ResidualBlock(nn.Module):
    """Two convolutions to half the resolution beside a 1x1 convolution; their sum over sqrt(2) keeps the variance."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.first = EqualisedConv(width_in, width_in, 3)
        self.blur, self.second = Blur(2), EqualisedConv(width_in, width_out, 3, stride=2, padding=0)
        self.skip_blur, self.skip = Blur(1, stride=2), EqualisedConv(width_in, width_out, 1, bias=False)

    def forward(self, features: Float[Tensor, "batch width_in height width"]) -> Float[Tensor, "batch width_out height/2 width/2"]:
        skipped: Tensor = self.skip(self.skip_blur(features))
        features = _activated(self.second(self.blur(_activated(self.first(features)))))
        total: Tensor = (skipped + features) / math.sqrt(2.0)
        return total


class Discriminator(nn.Module):
    """Residual blocks down to 4x4, one map of the deviation within `minibatch_stddev_group` images, a 3x3 and a linear layer.

    Classes enter by projection (1802.05637, eq. 3), over the square root of the width as in 2006.06676, which equalises their learning
    rate too.
    """

    faster_together = True

    def __init__(self, widths: list[int], channels: int, *, num_classes: int, minibatch_stddev_group: int | None) -> None:
        super().__init__()
        self.from_rgb = EqualisedConv(channels, widths[0], 1)
        self.blocks = nn.Sequential(*(ResidualBlock(width_in, width_out) for width_in, width_out in pairwise(widths)))
        self.minibatch_stddev_group = minibatch_stddev_group
        width = widths[-1]
        self.last_convolution = EqualisedConv(width + (minibatch_stddev_group is not None), width, 3)
        self.last_linear = EqualisedLinear(width * 16, width)
        self.logit = EqualisedLinear(width, 1)
        self.embedding = class_vectors(num_classes, width)

    def forward(
        self, images: Float[Tensor, "batch channels height width"], labels: Int64[Tensor, " batch"] | None = None
    ) -> Float[Tensor, " batch"]:
        features = self.blocks(_activated(self.from_rgb(images)))
        if self.minibatch_stddev_group is not None:
            features = torch.cat([features, deviation_map(features, self.minibatch_stddev_group)], 1)
        features = _activated(self.last_linear(_activated(self.last_convolution(features)).flatten(1)))
        logits: Tensor = self.logit(features).squeeze(1)
        return projected(logits, features / math.sqrt(features.shape[1]), self.embedding, labels)


def deviation_map(features: Float[Tensor, "batch maps height width"], group: int) -> Float[Tensor, "batch 1 height width"]:
    """The standard deviation over each `group` of consecutive images, averaged over maps and places (1710.10196, section 3).

    Consecutive, so that the ranks' shards of a batch hold the same groups as the whole. Where `group` does not divide the batch, groups
    are of the largest size below it that does.
    """
    batch, _, height, width = features.shape
    size = next(size for size in range(min(group, batch), 0, -1) if batch % size == 0)
    groups = _full_precision(features).unflatten(0, (batch // size, size))
    variances = (groups - groups.mean(1, keepdim=True)).square().mean(1)
    deviations: Tensor = (variances + EPSILON).sqrt().mean((1, 2, 3)).to(features.dtype)
    return deviations.repeat_interleave(size)[:, None, None, None].expand(-1, 1, height, width)


def generator(
    *,
    resolution: int,
    channels: int,
    z_dim: int,
    num_classes: int,
    capacity: Positive = 16384,
    max_width: Positive = 512,
    w_dim: Positive = 512,
    mapping_layers: Depth = 8,
    style_mixing: Annotated[float, Field(ge=0.0, le=1.0)] = 0.9,
    noise: bool = True,
) -> Generator:
    """Z [batch, z_dim] to images [batch, channels, resolution, resolution], in evaluation clamped to [-1, 1].

    There are min(capacity // r, max_width) maps at resolution r. `style_mixing` is the share of the images that two z's make in
    training. Noise and mixing are functions of z.

    Raises:
        ValueError: a resolution that is not a power of two from 4 to 1024, or a capacity below it.
    """
    return Generator(
        _widths(resolution, capacity, max_width),
        channels,
        z_dim=z_dim,
        num_classes=num_classes,
        w_dim=w_dim,
        mapping_layers=mapping_layers,
        style_mixing=style_mixing,
        noise=noise,
    )


def discriminator(
    *,
    resolution: int,
    channels: int,
    num_classes: int,
    capacity: Positive = 16384,
    max_width: Positive = 512,
    minibatch_stddev_group: Annotated[int, Field(gt=1)] | None = 4,
) -> Discriminator:
    """Images to logits [batch]; min(capacity // r, max_width) maps at resolution r.

    Logits depend on the other images of a group of `minibatch_stddev_group`; null leaves that out.

    Raises:
        ValueError: a resolution that is not a power of two from 4 to 1024, or a capacity below it.
    """
    widths = _widths(resolution, capacity, max_width)[::-1]
    return Discriminator(widths, channels, num_classes=num_classes, minibatch_stddev_group=minibatch_stddev_group)


def _widths(resolution: int, capacity: int, max_width: int) -> list[int]:
    """Maps at 4x4, 8x8, ... up to `resolution`."""
    require_resolution("stylegan2", resolution, POWERS)
    if capacity < resolution:
        raise ValueError(
            f"capacity {capacity} leaves no maps at resolution {resolution}; it needs {resolution} at least, the paper has 16384"
        )
    return [min(capacity // size, max_width) for size in POWERS if size <= resolution]


def _normalised(vectors: Float[Tensor, "batch width"]) -> Float[Tensor, "batch width"]:
    """Scaled to a mean square of 1 (1710.10196, section 4.2)."""
    return vectors * (vectors.square().mean(1, keepdim=True) + EPSILON).rsqrt()


def _activated(features: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Leaky ReLU with slope 0.2, times sqrt(2) to keep the variance (1912.04958, appendix B)."""
    return functional.leaky_relu(features, 0.2) * math.sqrt(2.0)


def _full_precision(features: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """In at least float32: images are sums over resolutions, and deviations differences."""
    return features.to(torch.promote_types(features.dtype, torch.float32))
