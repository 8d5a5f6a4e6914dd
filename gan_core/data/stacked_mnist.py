"""Stacked-MNIST: three random MNIST digits in the channels of one RGB image, 1000 modes that a generator can lose.

By two protocols, which differ in how many generated images are counted, so that their scores must not be mixed: see PROTOCOLS.
"""

from collections.abc import Iterator
from hashlib import sha256
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from gan_core import sampling
from gan_core.data import _cache, parquet
from gan_core.data._encoded import AnyPath, LocalPath
from gan_core.datatypes import ImageDataset

VERSION = 1
SIDE = 28
DIGITS = 10
AT_ONCE = 1024


class Protocol(NamedTuple):
    """How a paper counts modes: training images drawn (None: it does not fix a number), generated images classified, source."""

    train_count: int | None
    sample_count: int
    source: str


PROTOCOLS = {
    "pacgan": Protocol(128_000, 26_000, "VEEGAN (1705.07761) and PacGAN (1712.04086)"),
    "unrolled": Protocol(None, 25_600, "Unrolled GAN (1611.02163) and R3GAN (2501.05441)"),
}


def load(
    *,
    path: AnyPath,
    resolution: Literal[28, 32] = 28,
    count: Annotated[int, Field(gt=0)] = 128_000,
    seed: int = 0,
    cache_dir: LocalPath | None = None,
) -> ImageDataset:
    """`count` images [count, 3, resolution, resolution] uint8, from the MNIST Parquet file (`image`, `label`) at `path`.

    Each channel is a digit drawn with replacement and on its own; the label 100 * red + 10 * green + blue is one of 1000 modes, the digits
    0 ... 9 in the red, green and blue channel. A function of the source's content, `count` and `seed`. At 32 pixels the digits have a
    border of 2 black pixels. Made once and memory-mapped, 0.3 GB for the default; `cache_dir` as for `parquet`.

    Raises:
        ValueError: as `digits`.
    """
    source = digits(path=path, cache_dir=cache_dir)
    assert source.labels is not None
    settings = {"stacked_mnist": VERSION, "source": source.content_hash, "count": count, "seed": seed, "resolution": resolution}
    with _cache.entry(_cache.folder(cache_dir), [], settings) as cache:
        if not cache.is_complete():
            try:
                with cache.writer(3, resolution) as writer:
                    for pixels, label in _stacks(source.images, source.labels, _border(resolution), count, seed):
                        writer.add(pixels, label)
            except OSError as error:  # a full disk
                raise ValueError(f"data: {count} stacks could not be written into {cache.folder.parent} ({error})") from None
        stored = cache.read()
    return ImageDataset(
        "stacked_mnist",
        stored.images,
        stored.labels,
        stored.manifest["content_hash"],
        num_classes=DIGITS**3,
        source=f"{path}, {count} stacks, seed {seed}",
        pages=stored.pages,
    )


def digits(*, path: AnyPath, resolution: Literal[28, 32] = 28, cache_dir: LocalPath | None = None) -> ImageDataset:
    """Plain MNIST [count, 1, resolution, resolution] with the same border: what the classifier of the metric is trained on.

    Raises:
        ValueError: as `parquet.load`, and for images that are not 28x28, no labels, or labels that are not 0 ... 9.
    """
    found = parquet.load(path=path, resolution=SIDE, channels=1, cache_dir=cache_dir)
    if found.labels is None:
        raise ValueError(f"data.path: {path} has no labels, which Stacked-MNIST needs; give MNIST with a column `label`")
    if found.num_classes > DIGITS:
        raise ValueError(f"data.path: labels of {path} run to {found.num_classes - 1}, and digits are 0 to 9; give MNIST")
    border = _border(resolution)
    if not border:
        return found
    images = F.pad(found.images, (border,) * 4)
    content = sha256(f"{found.content_hash} border {border}".encode()).hexdigest()
    return ImageDataset(f"{found.name} at {resolution}", images, found.labels, content, num_classes=DIGITS, source=found.source)


def _stacks(images: Tensor, labels: Tensor, border: int, count: int, seed: int) -> Iterator[tuple[np.ndarray[Any, Any], int]]:
    """Each stacked image [3, H, W] and its mode, made in blocks, so that the whole is never in memory."""
    chosen = torch.randint(len(images), (count, 3), generator=sampling.random_source(seed, "stacked_mnist"))
    places = torch.tensor([DIGITS**2, DIGITS, 1])
    for block in chosen.split(AT_ONCE):
        stacked = F.pad(images[block.flatten()].squeeze(1).unflatten(0, (-1, 3)), (border,) * 4)
        yield from zip(stacked.numpy(), (labels[block] * places).sum(1).tolist(), strict=True)


def _border(resolution: int) -> int:
    return (resolution - SIDE) // 2
