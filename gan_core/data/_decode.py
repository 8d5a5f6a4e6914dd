"""One encoded image to pixels of a fixed layout: the decisions of REFERENCE.md's table "Images that are not plain", in one place.

Used by whatever reads images: training on folders and Parquet files, `raygan evaluate` and `raygan prepare`.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageFile, ImageOps

from gan_core.data._budget import Budget

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
# By the first bytes, not by the name: no other decoder of Pillow ever sees the bytes (EPS would start Ghostscript).
FIRST_BYTES = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
)
GREY_MODES = {"1", "L", "LA", "La"}
ALPHA_MODES = {"LA", "La", "PA", "RGBA", "RGBa"}
PALETTE_MODES = {"P", "PA"}
COLOUR_SPACES = {"CMYK", "YCbCr", "LAB", "HSV"}
TWO_BYTES = {"PNG", "TIFF"}
SEVERAL_FRAMES = {"GIF", "PNG", "TIFF", "WEBP"}
# A decompression bomb is larger. Of an image with that many, 9 bytes a pixel are in memory for a moment: 1.2 GB.
LARGEST_PIXELS = 2**27
PIXELS_IN_FLIGHT = LARGEST_PIXELS  # of all images that threads of this process decode at once
SMALL_PIXELS = 2**22  # images that are not counted among them
BAND_PIXELS = 2**20
LARGEST_BYTES = 2**30
ORIENTATION = 0x0112

# Why an image is dropped.
EMPTY, FOREIGN, DAMAGED, DEEP, TOO_LARGE = "empty", "not an image", "damaged", "unbounded values", "too large"
OTHER_SIZE, TOO_SMALL, UNREADABLE, NO_LABEL, LINK = "other size", "too small", "unreadable", "no label", "broken link"
REPLACED = "replaced"
REASONS = (EMPTY, FOREIGN, DAMAGED, DEEP, TOO_LARGE, OTHER_SIZE, TOO_SMALL, UNREADABLE, NO_LABEL, LINK, REPLACED)
# What was changed in an image that is kept.
CONVERSIONS = (
    "transparent",
    "palette",
    "colour space",
    "16 bits",
    "turned",
    "several frames",
    "enlarged",
    "grey to colour",
    "colour to grey",
)


class CorruptImageError(Exception):
    """The bytes are not an image that can be used; `reason` is one of REASONS."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        return CorruptImageError, (self.reason, str(self))


class SizeError(ValueError):
    """The image has a size that the layout does not allow; `reason` is OTHER_SIZE or TOO_SMALL, `size` its width and height."""

    def __init__(self, reason: str, size: tuple[int, int], resolution: int) -> None:
        wanted = f"smaller than {resolution}x{resolution}" if reason == TOO_SMALL else f"not {resolution}x{resolution}"
        super().__init__(f"is {size[0]}x{size[1]} and {wanted}")
        self.reason, self.size = reason, size


class Layout(NamedTuple):
    """What every image becomes: channels x resolution x resolution; `resize` is `never` or a key of FILTERS.

    `upscale` allows a filter to enlarge.
    """

    resolution: int
    channels: int
    resize: str
    upscale: bool = True


# An encoded image, one that is open already, or why there is none.
Content = bytes | Image.Image | CorruptImageError | None


class Row(NamedTuple):
    """One image of a source: where it came from, in words, its content, and the label (-1 without labels) or None."""

    place: str
    content: Content
    label: int | None


class Decoded(NamedTuple):
    """Pixels [channels, resolution, resolution], and which of CONVERSIONS they went through."""

    pixels: np.ndarray[Any, np.dtype[np.uint8]]
    conversions: tuple[str, ...]


@contextmanager
def quietly() -> Iterator[None]:
    """Without Pillow's warnings of what is odd in a file, which come without its name: what matters is counted."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


_in_flight = Budget(PIXELS_IN_FLIGHT)


def size_of(content: Content) -> tuple[int, int, int]:
    """Width, height and channels (1 for grey, else 3), of an image that decodes, when it is upright."""
    image, _ = _plain(_opened(content))
    return image.width, image.height, 1 if image.mode in GREY_MODES else 3


def decode(content: Content, layout: Layout) -> Decoded:
    """The image upright, on white, with 8 bits a channel, at the layout's size.

    With a filter the short side is resized to the resolution and the centre cropped, in one resampling.

    Raises:
        CorruptImageError: it cannot be decoded.
        SizeError: it has another size and `layout.resize` is `never`, or is smaller and `layout.upscale` is false.
    """
    image = _opened(content)
    pixels = image.width * image.height
    if pixels <= SMALL_PIXELS:
        return _decoded(image, layout)
    with _in_flight.take(pixels):
        return _decoded(image, layout)


def _decoded(image: Image.Image, layout: Layout) -> Decoded:
    image, conversions = _plain(image)
    mode = "L" if layout.channels == 1 else "RGB"
    if image.mode != mode:
        if (image.mode in GREY_MODES) == (layout.channels == 3):
            conversions += ("grey to colour",) if layout.channels == 3 else ("colour to grey",)
        image = image.convert(mode)
    if image.size != (layout.resolution, layout.resolution):
        if layout.resize == "never":
            raise SizeError(OTHER_SIZE, image.size, layout.resolution)
        if min(image.size) < layout.resolution:
            if not layout.upscale:
                raise SizeError(TOO_SMALL, image.size, layout.resolution)
            conversions += ("enlarged",)
        image = _resized(image, layout)
    pixels = np.asarray(image, dtype=np.uint8)
    return Decoded(pixels[None] if layout.channels == 1 else pixels.transpose(2, 0, 1), conversions)


def _plain(image: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    """The first frame, upright, opaque, and of mode 1, L or RGB; with the conversions that this took."""
    try:
        conversions: tuple[str, ...] = ()
        deep = image.mode.startswith("I;16") or (
            isinstance(image, ImageFile.ImageFile) and image.format in TWO_BYTES and image.mode != "L" and _has_two_byte_channels(image)
        )
        if image.format in SEVERAL_FRAMES and getattr(image, "is_animated", False):
            conversions += ("several frames",)
        if image.format == "TIFF" and _orientation(image) != 1:
            conversions += ("turned",)  # while it is loaded, by Pillow
        image.load()
        if image.mode in ("L", "RGB") and "transparency" not in image.info and not deep:
            return _upright(image, conversions)
        if image.mode == "F" or (image.mode.startswith("I") and not deep):
            raise CorruptImageError(DEEP, f"has values without a known range (mode {image.mode})")
        image, conversions = _upright(image, conversions)
        if deep:
            image, conversions = _reduced(image), (*conversions, "16 bits")
        return _opaque(image, conversions)
    except CorruptImageError:
        raise
    except Exception as error:
        raise _damaged(error) from None


def _damaged(error: Exception) -> CorruptImageError:
    """For errors of many kinds, of a decoder that reads hostile bytes. The image is counted, and shown."""
    return CorruptImageError(DAMAGED, f"cannot be decoded ({str(error).split(' <')[0] or type(error).__name__})")


def _opened(content: Content) -> Image.Image:
    """The image, its header read, and not too large to be decoded."""
    if isinstance(content, CorruptImageError):
        raise content
    try:
        image = content if isinstance(content, Image.Image) else _by_first_bytes(content)
    except CorruptImageError:
        raise
    except Image.DecompressionBombError:
        raise CorruptImageError(TOO_LARGE, f"has more than {LARGEST_PIXELS} pixels") from None
    except Exception as error:
        raise _damaged(error) from None
    if image.width * image.height > LARGEST_PIXELS:
        raise CorruptImageError(TOO_LARGE, f"has more than {LARGEST_PIXELS} pixels")
    return image


def _by_first_bytes(encoded: bytes | None) -> Image.Image:
    if not encoded:
        raise CorruptImageError(EMPTY, "no bytes")
    if len(encoded) > LARGEST_BYTES:
        raise CorruptImageError(TOO_LARGE, f"has more than {LARGEST_BYTES} bytes")
    for first, form in FIRST_BYTES:
        if encoded.startswith(first):
            return Image.open(io.BytesIO(encoded), formats=(form,))
    if encoded[:4] == b"RIFF" and encoded[8:12] == b"WEBP":
        return Image.open(io.BytesIO(encoded), formats=("WEBP",))
    raise CorruptImageError(FOREIGN, "cannot be decoded (not PNG, JPEG, GIF, BMP, TIFF or WebP)")


def _has_two_byte_channels(image: ImageFile.ImageFile) -> bool:
    """Whether the file has 16 bits a channel; to be asked before the pixels are loaded. Pillow itself takes the high byte of colours."""
    layouts = [str(tile[3]) for tile in image.tile]
    return any(";16" in layout and ";16S" not in layout for layout in layouts)


def _upright(image: Image.Image, conversions: tuple[str, ...]) -> tuple[Image.Image, tuple[str, ...]]:
    """As the camera was held."""
    if _orientation(image) == 1:
        return image, conversions
    return ImageOps.exif_transpose(image), (*conversions, "turned")


def _orientation(image: Image.Image) -> int:
    """EXIF's, 1 to 8; 1, upright, where the data are damaged: the pixels may be whole."""
    try:
        found = image.getexif().get(ORIENTATION, 1)
    except Exception:  # of many kinds, as above
        return 1
    return found if found in range(2, 9) else 1


def _reduced(image: Image.Image) -> Image.Image:
    """16 bits to 8: the high byte, which maps 0 to 0 and 65,535 to 255. Of colours, Pillow has dropped the low byte already."""
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image)
    return Image.fromarray((values >> 8).astype(np.uint8))


def _opaque(image: Image.Image, conversions: tuple[str, ...]) -> tuple[Image.Image, tuple[str, ...]]:
    """Colours looked up and converted, and what shows through is white."""
    grey = image.mode in GREY_MODES
    if image.mode in PALETTE_MODES:
        conversions += ("palette",)
    if image.mode in COLOUR_SPACES:
        conversions += ("colour space",)
    if image.mode in ALPHA_MODES or "transparency" in image.info:
        image, shows = _on_white(image)
        conversions += ("transparent",) if shows else ()
    elif image.mode != "RGB" and not grey:
        image = image.convert("RGB")
    return (image.convert("L") if grey else image), conversions


def _on_white(image: Image.Image) -> tuple[Image.Image, bool]:
    """In RGB on white, and whether any of that shows. In bands of rows, because alpha takes three more copies of what is laid."""
    laid, shows = Image.new("RGB", image.size), False
    rows = max(1, BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        part = image if rows >= image.height else image.crop((0, top, image.width, min(top + rows, image.height)))
        band = part.convert("RGBA")
        if band.getchannel("A").getextrema() != (255, 255):
            white = Image.new("RGBA", band.size, "white")
            white.alpha_composite(band)
            band, shows = white, True
        laid.paste(band.convert("RGB"), (0, top))
    return laid, shows


def _resized(image: Image.Image, layout: Layout) -> Image.Image:
    """The short side resized to the resolution, and the centre cropped, in one resampling."""
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    size = (layout.resolution, layout.resolution)
    return image.resize(size, FILTERS[layout.resize], box=(left, top, left + side, top + side))
