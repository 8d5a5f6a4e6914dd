"""The values that pass between data sets, steps and the trainer."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from gan_core.paging import Pages


@dataclass(frozen=True)
class Mixture:
    """Isotropic Gaussians that points were drawn from: `centres` [modes, 2], one `standard_deviation` or [modes] of them, and `weights`
    [modes], positive with sum 1, or None where each is as likely.
    """

    centres: Float[Tensor, "modes 2"]
    standard_deviation: float | Float[Tensor, " modes"]
    weights: Float[Tensor, " modes"] | None = None

    def deviation_of(self, labels: Int64[Tensor, " points"]) -> float | Float[Tensor, "points 1"]:
        """The standard deviation of each of these modes."""
        return self.standard_deviation[labels, None] if isinstance(self.standard_deviation, Tensor) else self.standard_deviation


@dataclass(frozen=True)
class ImageDataset:
    """A data set as training reads it.

    `images` is [count, channels, height, width]: uint8 pixels 0..255, often memory-mapped, or float32 values used as they
    are (2-D points are [count, 2, 1, 1]). `labels` is [count] int64 or None. `content_hash` names the decoded content. `mixture` is
    where points come from, if that is known. `pages` is told what was read of a memory map. `class_names` are those of the classes,
    empty where they have none. `resident` is a copy of `images` on the device that trains, from which batches are taken there.
    """

    name: str
    images: Shaped[Tensor, "count channels height width"]
    labels: Int64[Tensor, " count"] | None
    content_hash: str
    num_classes: int = 0
    source: str = ""
    mixture: Mixture | None = None
    pages: Pages | None = None
    class_names: tuple[str, ...] = ()
    resident: Shaped[Tensor, "count channels height width"] | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def resolution(self) -> int:
        return self.images.shape[-1]

    @property
    def channels(self) -> int:
        return self.images.shape[1]

    def batch(
        self,
        indices: Int64[Tensor, " batch"],
        device: torch.device,
        dtype: torch.dtype,
        *,
        labelled: bool,
        images: Shaped[Tensor, "batch channels height width"] | None = None,
    ) -> "Batch":
        """The named images in [-1, 1] (pixel 0 is -1, pixel 255 is 1) on `device`, with their labels where asked for.

        `images` are theirs, where somebody has fetched them to the device already.
        """
        if images is None:
            images = self._fetched(indices, device)
        labels = to_device(self.labels[indices], device) if labelled and self.labels is not None else None
        pixels = images.dtype == torch.uint8
        images = images.to(dtype)
        return Batch(images.mul_(1 / 127.5).sub_(1.0) if pixels else images, labels)

    def _fetched(self, indices: Int64[Tensor, " batch"], device: torch.device) -> Shaped[Tensor, "batch channels height width"]:
        if self.resident is not None and self.resident.device == device:
            return self.resident.index_select(0, to_device(indices, device))
        images = self.gathered(indices)
        if self.pages is not None:
            self.pages.was_read()
        return to_device(images, device)

    def gathered(self, indices: Int64[Tensor, " batch"]) -> Shaped[Tensor, "batch channels height width"]:
        """The named images as they are kept, on the CPU."""
        return self.images.index_select(0, indices)


def to_device(tensor: Shaped[Tensor, "..."], device: torch.device) -> Shaped[Tensor, "..."]:
    """`tensor` on `device`; to a GPU through pinned memory, so that nobody waits for the copy."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


class Batch(NamedTuple):
    """Real images [batch, C, H, W] in [-1, 1], or latents z [batch, z_dim]; with labels [batch] or None."""

    inputs: Float[Tensor, "batch ..."]
    labels: Int64[Tensor, " batch"] | None

    def split(self, size: int) -> list["Batch"]:
        """Consecutive parts of `size`, the last one perhaps smaller."""
        inputs = self.inputs.split(size)
        labels = [None] * len(inputs) if self.labels is None else self.labels.split(size)
        return [Batch(*part) for part in zip(inputs, labels, strict=True)]
