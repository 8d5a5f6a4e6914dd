"""Layers with an equalised learning rate (1710.10196, section 4.1): weights are kept with variance 1 and scaled when they are used.

Adam's step does not depend on the size of a gradient, so all weights then change by the same share of their typical size.
`lr_multiplier` makes that share smaller without changing the first weights (1812.04948, appendix C).
"""

import math
from contextlib import AbstractContextManager, nullcontext

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from gan_core.networks._filters import Blur

EPSILON = 1e-8


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """No autocast: styles have few numbers, and each scales a whole map."""
    return torch.autocast(device.type, enabled=False) if torch.is_autocast_enabled(device.type) else nullcontext()


class EqualisedLinear(nn.Module):
    """y = W x + b, where W starts from N(0, 1 / width_in) and b from `bias`."""

    def __init__(self, width_in: int, width_out: int, *, bias: float = 0.0, lr_multiplier: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width_out, width_in) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((width_out,), bias / lr_multiplier))
        self.scale, self.lr_multiplier = lr_multiplier / math.sqrt(width_in), lr_multiplier

    def forward(self, inputs: Float[Tensor, "batch width_in"]) -> Float[Tensor, "batch width_out"]:
        return functional.linear(inputs, self.weight * self.scale, self.bias * self.lr_multiplier)


class EqualisedConv(nn.Module):
    """A convolution whose weights start from N(0, 1 / fan-in); the result has the size of the input over `stride`."""

    def __init__(
        self, width_in: int, width_out: int, kernel: int, *, stride: int = 1, padding: int | None = None, bias: bool = True
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width_out, width_in, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(width_out)) if bias else None
        self.scale = 1.0 / math.sqrt(width_in * kernel**2)
        self.stride, self.padding = stride, kernel // 2 if padding is None else padding

    def forward(self, images: Float[Tensor, "batch width_in height width"]) -> Float[Tensor, "batch width_out out_height out_width"]:
        return functional.conv2d(images, self.weight * self.scale, self.bias, self.stride, self.padding)


class ModulatedConv(nn.Module):
    """A convolution whose weights are scaled, for each image, by a style made from w (1912.04958, section 2.2).

    With the style s_i of input map i the weights are w'_ijk = s_i w_ijk (eq. 1), and demodulated
    w''_ijk = w'_ijk / sqrt(sum_ik w'_ijk^2 + eps) (eq. 3). Scaling the input by s and the output by that root's inverse is the same,
    and needs one convolution with weights that all images share. `up` doubles the resolution: a transposed convolution, then the filter.
    """

    def __init__(self, width_in: int, width_out: int, kernel: int, w_dim: int, *, demodulate: bool = True, up: bool = False) -> None:
        super().__init__()
        self.style = EqualisedLinear(w_dim, width_in, bias=1.0)
        self.weight = nn.Parameter(torch.randn(width_out, width_in, kernel, kernel))
        self.scale, self.padding = 1.0 / math.sqrt(width_in * kernel**2), kernel // 2
        self.demodulate, self.blur = demodulate, Blur(1, gain=4.0) if up else None

    def forward(
        self, images: Float[Tensor, "batch width_in height width"], w: Float[Tensor, "batch w_dim"]
    ) -> Float[Tensor, "batch width_out out_height out_width"]:
        weight = self.weight * self.scale
        with full_precision(w.device):
            styles = self.style(w)
            sizes = styles.square() @ weight.square().sum((2, 3)).T if self.demodulate else None
        images = images * styles.to(images.dtype)[:, :, None, None]
        if self.blur is None:
            images = functional.conv2d(images, weight, padding=self.padding)
        else:
            images = self.blur(functional.conv_transpose2d(images, weight.transpose(0, 1), stride=2))
        if sizes is not None:
            images = images * (sizes + EPSILON).rsqrt().to(images.dtype)[:, :, None, None]
        return images
