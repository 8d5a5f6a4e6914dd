"""DiffAugment (Zhao et al. 2020, 2006.10738): color, translation and cutout, on real and fake images, in both players' steps."""

import torch

from gan_core.augmentations._augmentation import Augmentation, Columns, Images, Probability, Uniforms, mix
from gan_core.shift import shifted

PROBABILITY: float | None = 1.0  # unless the config says otherwise: always
SHIFT = 0.125  # of the image's size, each way
CUTOUT = 0.5  # of the image's size: the side of the square
COLOR_DRAWS, TRANSLATION_DRAWS, CUTOUT_DRAWS = 4, 3, 3


def augmentation(*, color: bool = True, translation: bool = True, cutout: bool = True) -> Augmentation:
    """The three kinds of 2006.10738, section 3.3, each on or off.

    Color: brightness moved by U(-0.5, 0.5), saturation times U(0, 2), contrast times U(0.5, 1.5). Translation by up to an eighth of the
    size each way, and cutout of a square of half the size; both leave 0, which is grey. Images of one channel have no saturation.

    Raises:
        ValueError: all three are off.
    """
    if not (color or translation or cutout):
        raise ValueError("augment: color, translation and cutout are all false; set augment.name=null to leave images as they are")
    draws = COLOR_DRAWS * color + TRANSLATION_DRAWS * translation + CUTOUT_DRAWS * cutout

    def apply(images: Images, uniforms: Uniforms, probability: Probability) -> Images:
        columns = Columns(uniforms)
        if color:
            images = _colored(images, columns, probability)
        if translation:
            images = _translated(images, columns, probability)
        return _cut(images, columns, probability) if cutout else images

    return Augmentation(draws, apply)


def _colored(images: Images, columns: Columns, probability: Probability) -> Images:
    taken = columns.taken(probability)
    brightness = mix(taken, columns.uniform() - 0.5, 0.0)[:, None, None, None]
    saturation = mix(taken, columns.uniform() * 2.0, 1.0)[:, None, None, None]
    contrast = mix(taken, columns.uniform() + 0.5, 1.0)[:, None, None, None]
    images = images + brightness
    images = torch.lerp(images.mean(1, keepdim=True).expand_as(images), images, saturation)
    return torch.lerp(images.mean((1, 2, 3), keepdim=True).expand_as(images), images, contrast)


def _translated(images: Images, columns: Columns, probability: Probability) -> Images:
    taken, largest = columns.taken(probability), round(images.shape[-1] * SHIFT)
    steps = [(columns.uniform() * (2 * largest + 1)).floor().clamp(max=2 * largest) - largest for _ in range(2)]
    down, right = ((step * taken).long() for step in steps)
    return shifted(images, down, right, margins=(largest, largest), mode="constant")


def _cut(images: Images, columns: Columns, probability: Probability) -> Images:
    """The square's centre is any pixel, so that it may hang over the border."""
    taken, size = columns.taken(probability), images.shape[-1]
    side = round(size * CUTOUT)
    first = [(columns.uniform() * size).floor().clamp(max=size - 1) - side // 2 for _ in range(2)]
    places = torch.arange(size, device=images.device, dtype=images.dtype)
    inside = [(places >= start[:, None]) & (places < start[:, None] + side) for start in first]
    hole = (inside[0][:, :, None] & inside[1][:, None, :]) & (taken > 0.0)[:, None, None]
    return images.masked_fill(hole[:, None], 0.0)
