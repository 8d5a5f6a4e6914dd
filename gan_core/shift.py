"""Moving images by whole pixels."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

Shift = Int64[Tensor, " batch"]


def shifted(
    images: Float[Tensor, "batch C height width"], down: Shift, right: Shift, *, margins: tuple[int, int], mode: str
) -> Float[Tensor, "batch C height width"]:
    """Each image moved by its own whole numbers of pixels; what comes in is as `functional.pad`'s `mode`.

    `margins` are the largest moves, down or up and right or left.
    """
    height, width = images.shape[2:]
    padded = functional.pad(images, (margins[1], margins[1], margins[0], margins[0]), mode=mode)
    rows = margins[0] - down[:, None] + torch.arange(height, device=images.device)
    columns = margins[1] - right[:, None] + torch.arange(width, device=images.device)
    each = torch.arange(len(images), device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
