"""One encoded image to pixels of a fixed layout, or an error that says what is wrong with it."""

import io
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
GREY_MODES = {"1", "L", "LA"}
DEEP_MODES = {"I", "I;16", "I;16B", "I;16L", "F"}


class CorruptImageError(Exception):
    """The bytes are not an image that can be used."""


class Layout(NamedTuple):
    """What every image becomes: channels x resolution x resolution; `resize` is `never` or a key of FILTERS."""

    resolution: int
    channels: int
    resize: str


def size_of(encoded: bytes | None) -> tuple[int, int, int]:
    """Width, height and channels (1 for grey, else 3), of an image that decodes."""
    image = _open(encoded)
    return image.width, image.height, 1 if image.mode in GREY_MODES else 3


def decode(encoded: bytes | None, layout: Layout, place: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Pixels [channels, resolution, resolution].

    Raises:
        CorruptImageError: the bytes cannot be decoded.
        ValueError: the image has another size and `layout.resize` is `never`.
    """
    image = _open(encoded)
    size = (layout.resolution, layout.resolution)
    if image.size != size and layout.resize == "never":
        raise ValueError(
            f"{place} is {image.width}x{image.height} and not {layout.resolution}x{layout.resolution}; set data.resolution to the size "
            f"that the images have, or data.resize=lanczos to resize the short side and crop the centre"
        )
    image = image.convert("L" if layout.channels == 1 else "RGB")
    if image.size != size:
        image = _resized(image, layout)
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[None] if layout.channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _open(encoded: bytes | None) -> Image.Image:
    if not encoded:
        raise CorruptImageError("no bytes")
    try:
        image = Image.open(io.BytesIO(encoded))
        image.load()
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise CorruptImageError(f"cannot be decoded ({str(error).split(' <')[0]})") from None
    if image.mode in DEEP_MODES:
        raise CorruptImageError(f"has more than 8 bits a channel (mode {image.mode})")
    return image


def _resized(image: Image.Image, layout: Layout) -> Image.Image:
    """The short side resized to the resolution, and the centre cropped, in one resampling."""
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    size = (layout.resolution, layout.resolution)
    return image.resize(size, FILTERS[layout.resize], box=(left, top, left + side, top + side))
