"""Images as functions of their seeds, bit for bit, whatever else is drawn with them.

Matrix products may round otherwise for another batch size: of an MLP's images 2 of 401,408 values changed by a grey level between batches
of 2 and of 512. So images are computed in blocks of BLOCK consecutive seeds, from multiples of BLOCK, however few of them are asked for.
That costs at most two blocks more than were asked for, and on CPUs up to a third of the speed that small networks have in large batches.
The same bits need the same software on the same kind of processor, and one thread on CPUs (`one_thread`).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from gan_core import sampling
from gan_core.truncation import Truncated

BLOCK = 16


def label_of(seed: int, num_classes: int, label: int | None) -> int:
    """The class of an image seed: `label`, or where that is None the classes take turns."""
    return seed % num_classes if label is None else label


def images_of_seeds(
    model: Truncated, first_seed: int, count: int, *, z_dim: int, num_classes: int, label: int | None, truncation: float
) -> Iterator[Float[Tensor, "few channels height width"]]:
    """Images of `count` consecutive seeds in batches of BLOCK or fewer, on the model's device; `num_classes` is 0 for a generator without.

    A class-conditional generator makes class `label`, or seed % num_classes for None.
    """
    place = next(model.parameters())
    cut = torch.tensor(truncation, device=place.device, dtype=place.dtype)
    for start in range(first_seed - first_seed % BLOCK, first_seed + count, BLOCK):
        z = sampling.latents_of_seeds(start, BLOCK, z_dim=z_dim).to(place.device, place.dtype)
        labels = None
        if num_classes:
            labels = torch.tensor([label_of(start + i, num_classes, label) for i in range(BLOCK)], device=place.device)
        with torch.no_grad():
            images: Tensor = model(z, labels, cut)
        yield images[max(first_seed - start, 0) : first_seed + count - start]


def pixels(images: Float[Tensor, "batch channels height width"]) -> UInt8[np.ndarray, "batch height width channels"]:
    """Images in [-1, 1] as grey levels 0 to 255, channels last: what a PNG holds."""
    levels = ((images.detach().float() + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)
    found: np.ndarray = levels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return found


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for operations on CPUs while the block lasts: a sum that threads share may round otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
