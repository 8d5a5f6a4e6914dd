"""Doubling and halving with the filter [1, 3, 3, 1] on each axis (1912.04958, appendix B): linear interpolation, without aliases."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class Blur(nn.Module):
    """Filters each channel; `stride` 2 keeps every second result. Outside the image is 0."""

    kernel: Tensor

    def __init__(self, padding: int, *, stride: int = 1, gain: float = 1.0) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8.0
        self.register_buffer("kernel", (gain * taps[:, None] * taps)[None, None], persistent=False)
        self.padding, self.stride = padding, stride

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels out_height out_width"]:
        channels = images.shape[1]
        kernel = self.kernel.to(images.dtype).expand(channels, -1, -1, -1)
        return functional.conv2d(images, kernel, padding=self.padding, stride=self.stride, groups=channels)


def doubled(images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels 2*height 2*width"]:
    """Each axis between its pixels: zeros in between, then the filter. By sums, which autocast leaves in the precision of `images`."""
    for axis, margins in ((2, (0, 0, 1, 1)), (3, (1, 1, 0, 0))):
        padded, size = functional.pad(images, margins), images.shape[axis]
        before, after = padded.narrow(axis, 0, size), padded.narrow(axis, 2, size)
        images = torch.stack([(before + 3.0 * images) / 4.0, (3.0 * images + after) / 4.0], axis + 1).flatten(axis, axis + 1)
    return images
