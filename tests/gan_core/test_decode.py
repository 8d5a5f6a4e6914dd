import io
import struct
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageCms

from gan_core.data import _decode
from gan_core.data._budget import Budget
from gan_core.data._decode import CONVERSIONS, CorruptImageError, Layout, SizeError, decode, size_of
from tests.support import png


def encoded(image, form="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def corners(size=8):
    """White, grey and dark in three corners: no two of the eight orientations look alike."""
    pixels = np.full((size, size), 128, np.uint8)
    pixels[:2, :2], pixels[:2, -2:], pixels[-2:, :2] = 255, 200, 0
    return pixels


TURNED = {  # what a viewer does, EXIF 2.32, table of orientations
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.T,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).T,
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", TURNED)
def test_an_image_is_turned_as_its_orientation_says(orientation, form):
    exif = Image.Exif()
    exif[_decode.ORIENTATION] = orientation
    options = {"JPEG": {"quality": 100}, "WEBP": {"lossless": True}}.get(form, {})
    found = decode(encoded(Image.fromarray(corners()), form, exif=exif, **options), Layout(8, 1, "never"))
    difference = np.abs(found.pixels[0].astype(int) - TURNED[orientation](corners()))
    assert difference.max() <= (3 if form == "JPEG" else 0)
    assert found.conversions == (
        (("turned",) if orientation > 1 else ()) if form != "WEBP" else ((("turned",) if orientation > 1 else ()) + ("colour to grey",))
    )


def test_a_photograph_on_its_side_has_its_upright_size():
    exif = Image.Exif()
    exif[_decode.ORIENTATION] = 6
    assert size_of(encoded(Image.new("RGB", (20, 10)), "JPEG", exif=exif)) == (10, 20, 3)


def test_damaged_exif_data_turn_nothing():
    content = encoded(Image.fromarray(corners()), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    with _decode.quietly():
        assert decode(content, Layout(8, 1, "never")).conversions == ()


def test_what_shows_through_is_white():
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0, 0] = (10, 20, 30, 255)
    pixels[0, 1] = (10, 20, 30, 0)
    pixels[1, 0] = (0, 0, 0, 128)
    found = decode(encoded(Image.fromarray(pixels)), Layout(2, 3, "never"))
    assert found.pixels[:, 0, 0].tolist() == [10, 20, 30]
    assert found.pixels[:, 0, 1].tolist() == [255, 255, 255]
    assert found.pixels[:, 1, 0].tolist() == [127, 127, 127]
    assert found.conversions == ("transparent",)
    assert decode(png((2, 2), "RGBA", (1, 2, 3, 255)), Layout(2, 3, "never")).conversions == ()


def test_grey_with_transparency_stays_grey():
    found = decode(png((2, 2), "LA", (77, 255)), Layout(2, 1, "never"))
    assert (found.pixels.min(), found.pixels.max(), found.conversions) == (77, 77, ())
    assert decode(png((2, 2), "LA", (77, 0)), Layout(2, 1, "never")).pixels.max() == 255
    assert size_of(png((2, 2), "LA", (77, 255))) == (2, 2, 1)


def test_a_palette_is_looked_up_and_its_transparent_colour_is_white():
    image = Image.new("P", (2, 1))
    image.putpalette([200, 100, 50, 0, 0, 255])
    image.putdata([0, 1])
    found = decode(encoded(image.resize((2, 2))), Layout(2, 3, "never"))
    assert found.pixels[:, 0].T.tolist() == [[200, 100, 50], [0, 0, 255]]
    assert found.conversions == ("palette",)
    see_through = decode(encoded(image.resize((2, 2)), transparency=1), Layout(2, 3, "never"))
    assert see_through.pixels[:, 0].T.tolist() == [[200, 100, 50], [255, 255, 255]]
    assert see_through.conversions == ("palette", "transparent")


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (255, 0), (256, 1), (40_000, 156), (65_535, 255)])
def test_16_bits_become_the_high_byte_in_png_and_tiff(value, expected):
    for form in ("PNG", "TIFF"):
        found = decode(encoded(Image.fromarray(np.full((3, 3), value, np.uint16)), form), Layout(3, 1, "never"))
        assert (found.pixels.min(), found.pixels.max(), found.conversions) == (expected, expected, ("16 bits",))


def deep_colours(value):
    """A PNG of 2x2 pixels with 16 bits a channel, by hand: Pillow writes none."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + struct.pack(">6H", *[value] * 6)) * 2
    header = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_16_bits_of_colours_are_told_too():
    found = decode(deep_colours(40_000), Layout(2, 3, "never"))
    assert (found.pixels.min(), found.pixels.max(), found.conversions) == (156, 156, ("16 bits",))


def test_colour_spaces_of_print_and_video_become_rgb():
    cmyk = decode(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100), Layout(8, 3, "never"))
    assert cmyk.conversions == ("colour space",)
    assert np.abs(cmyk.pixels[:, 0, 0].astype(int) - [255, 0, 0]).max() <= 4
    lab = ImageCms.profileToProfile(
        Image.new("RGB", (8, 8), (255, 0, 0)), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert decode(encoded(lab, "TIFF"), Layout(8, 3, "never")).conversions == ("colour space",)


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_several_frames_the_first_is_taken(form):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue", "lime")]
    found = decode(
        encoded(frames[0], form, save_all=True, append_images=frames[1:], **({"lossless": True} if form == "WEBP" else {})),
        Layout(4, 3, "never"),
    )
    assert found.pixels[:, 0, 0].tolist() == [255, 0, 0]
    assert "several frames" in found.conversions


def test_grey_and_colour_become_each_other_and_it_is_told():
    assert decode(png((2, 2), "L", 9), Layout(2, 3, "never")).conversions == ("grey to colour",)
    assert decode(png((2, 2), "RGB", (9, 9, 9)), Layout(2, 1, "never")).conversions == ("colour to grey",)
    assert decode(png((2, 2), "1", 1), Layout(2, 1, "never")).pixels.min() == 255


def test_small_images_are_enlarged_only_where_that_is_allowed():
    found = decode(png((4, 4)), Layout(8, 1, "box"))
    assert (found.pixels.shape, found.conversions) == ((1, 8, 8), ("enlarged",))
    with pytest.raises(SizeError, match="is 4x400 and smaller than 8x8") as caught:
        decode(png((4, 400)), Layout(8, 1, "box", upscale=False))
    assert caught.value.reason == "too small"
    with pytest.raises(SizeError) as caught:
        decode(png((9, 8)), Layout(8, 1, "never"))
    assert caught.value.reason == "other size"
    assert decode(png((9, 8)), Layout(8, 1, "box", upscale=False)).conversions == ()


PHOTO = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)), "JPEG")
HOSTILE = {
    "no bytes": (b"", "empty"),
    "None": (None, "empty"),
    "text": (b"this is no image", "not an image"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
    "half a JPEG": (PHOTO[: len(PHOTO) // 2], "damaged"),
    "half a PNG": (encoded(Image.open(io.BytesIO(PHOTO)))[:5000], "damaged"),
    "a PNG's first bytes": (b"\x89PNG\r\n\x1a\n", "damaged"),
    "a GIF's first bytes": (b"GIF89a", "damaged"),
    "a BMP's first bytes": (b"BM", "damaged"),
    "a TIFF without a directory": (b"II*\0\xff\xff\xff\x7f", "damaged"),
    "a WebP's first bytes": (b"RIFF\0\0\0\0WEBPVP8 ", "damaged"),
    "floating point": (encoded(Image.new("F", (4, 4), 0.5), "TIFF"), "unbounded values"),
    "32 bits": (encoded(Image.new("I", (4, 4), 70_000), "TIFF"), "unbounded values"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bytes_are_corrupt_for_a_reason(name):
    content, reason = HOSTILE[name]
    with pytest.raises(CorruptImageError) as caught:
        decode(content, Layout(4, 3, "box"))
    assert caught.value.reason == reason
    assert reason in _decode.REASONS


def test_a_decompression_bomb_is_refused_before_it_is_unpacked():
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    idat = zlib.compress(bytes(100))
    bomb += struct.pack(">I", len(idat)) + b"IDAT" + idat + struct.pack(">I", zlib.crc32(b"IDAT" + idat))
    with _decode.quietly(), pytest.raises(CorruptImageError, match="has more than 134217728 pixels") as caught:
        decode(bomb, Layout(4, 1, "box"))
    assert caught.value.reason == "too large"


@pytest.mark.parametrize("seed", range(4))
def test_no_damage_by_chance_gets_past_the_decoder(seed):
    """Bytes overwritten and cut at random: pixels of the right shape, or corrupt; never another error."""
    random = np.random.default_rng(seed)
    images = [
        PHOTO,
        png((9, 9), "RGBA"),
        encoded(Image.new("P", (9, 9)), "GIF"),
        encoded(Image.new("CMYK", (9, 9)), "TIFF"),
        deep_colours(9),
    ]
    outcomes = set()
    for _ in range(200):
        content = bytearray(images[random.integers(len(images))])
        for place in random.integers(0, len(content), 4):
            content[place] = random.integers(256)
        with _decode.quietly():
            try:
                assert decode(bytes(content), Layout(4, 3, "box")).pixels.shape == (3, 4, 4)
                outcomes.add("kept")
            except CorruptImageError:
                outcomes.add("dropped")
    assert outcomes == {"kept", "dropped"}


def test_every_conversion_has_a_name_in_the_list():
    assert len(set(CONVERSIONS)) == len(CONVERSIONS) == 9


def test_what_is_laid_on_white_in_bands_is_as_when_it_is_laid_at_once(monkeypatch):
    random = np.random.default_rng(0)
    colours = Image.fromarray(random.integers(0, 256, (40, 30, 4), dtype=np.uint8))
    colours.paste((1, 2, 3, 255), (0, 0, 30, 13))  # an opaque band
    palette = colours.convert("RGB").quantize(16)
    palette.info["transparency"] = bytes(range(16))
    keyed = colours.convert("RGB")
    keyed.info["transparency"] = (1, 2, 3)
    for image in (colours, colours.convert("LA"), palette, keyed):
        content = encoded(image)
        at_once = decode(content, Layout(16, 3, "box"))
        with monkeypatch.context() as patched:
            patched.setattr(_decode, "BAND_PIXELS", 30 * 13)
            banded = decode(content, Layout(16, 3, "box"))
        assert "transparent" in banded.conversions
        assert at_once.conversions == banded.conversions
        np.testing.assert_array_equal(at_once.pixels, banded.pixels)


def test_threads_never_decode_more_pixels_at_once_than_are_allowed(monkeypatch):
    flying, most, lock = 0, 0, threading.Lock()
    plain = _decode._plain

    def counted(image):
        nonlocal flying, most
        pixels = image.width * image.height
        with lock:
            flying += pixels
            most = max(most, flying)
        time.sleep(0.01)
        result = plain(image)
        with lock:
            flying -= pixels
        return result

    monkeypatch.setattr(_decode, "_plain", counted)
    monkeypatch.setattr(_decode, "SMALL_PIXELS", 50)
    monkeypatch.setattr(_decode, "_in_flight", Budget(250))
    content = encoded(Image.new("RGB", (10, 10)))
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: decode(content, Layout(10, 3, "never")).pixels.shape, range(24)))
    assert results == [(3, 10, 10)] * 24
    assert most == 200
