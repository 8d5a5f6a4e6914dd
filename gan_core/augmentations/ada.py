"""The pipeline of adaptive discriminator augmentation (Karras et al. 2020, 2006.06676, appendix B): pixel blitting, geometry, color.

These three of its six groups are the ones that helped (section 3 and figure 4); filtering, noise and cutout are left out.
"""

import math
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from gan_core.augmentations._augmentation import Augmentation, Columns, Images, PerImage, Probability, Uniforms, mix

Matrices = Float[Tensor, "batch n n"]
PIXEL_DRAWS, GEOMETRY_DRAWS, COLOR_DRAWS = 7, 11, 10
PROBABILITY: float | None = None  # unless the config says otherwise: what the controller makes it
SHIFT = 0.125  # of the image's size: how far blitting moves at most, and the deviation of fractional translation
# Daubechies' symlet of 12 taps, an orthogonal lowpass filter: what is up-sampled by it and down-sampled again is what it was.
SYM6 = (
    *(0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633, 0.4910559419267466, 0.787641141030194),
    *(0.3379294217276218, -0.07263752278646252, -0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148),
)
REACH = len(SYM6) // 2 - 1
# Where the filter's centre of mass puts a pixel among the up-sampled ones, from the middle of its two: moved back before the map, and again
# after it, so that the map is about the image's own centre.
OFFSET = sum(place * tap for place, tap in enumerate(SYM6)) / math.sqrt(2.0) - REACH - 0.5
AXES = (((1, len(SYM6)), (1, 2)), ((len(SYM6), 1), (2, 1)))  # kernel shape and stride, across and down


def augmentation(*, pixel: bool = True, geometry: bool = True, color: bool = True) -> Augmentation:
    """The groups of 2006.06676, each on or off.

    Pixel: mirroring, quarter turns, shifts by whole pixels. Geometry: scale, rotation, aspect, shifts by fractions. Color: brightness,
    contrast, flipped luma, hue, saturation; the last two mean nothing for one channel. Borders are mirrored.

    Raises:
        ValueError: all three are off.
    """
    if not (pixel or geometry or color):
        raise ValueError("augment: pixel, geometry and color are all false; set augment.name=null to leave images as they are")
    draws = PIXEL_DRAWS * pixel + GEOMETRY_DRAWS * geometry + COLOR_DRAWS * color

    def apply(images: Images, uniforms: Uniforms, probability: Probability) -> Images:
        columns = Columns(uniforms)
        if pixel or geometry:
            steps = _blits(columns, probability, images.shape[-1]) if pixel else []
            steps += _moves(columns, probability) if geometry else []
            images = warped(images, _product(steps))
        return recolored(images, _product(_recolorings(columns, probability)[::-1])) if color else images

    return Augmentation(draws, apply)


def _blits(columns: Columns, probability: Probability, size: int) -> list[Matrices]:
    """Inverse maps of the plane, in coordinates where the image is [-1, 1]^2, in the order of application."""
    mirrored = mix(columns.taken(probability), (columns.uniform() * 2.0).floor(), 0.0)
    turns = mix(columns.taken(probability), (columns.uniform() * 4.0).floor(), 0.0)
    taken = columns.taken(probability)
    right, down = (mix(taken, ((columns.uniform() * 2.0 - 1.0) * SHIFT * size).round() / size, 0.0) for _ in range(2))
    return [_scaling(1.0 - 2.0 * mirrored, torch.ones_like(mirrored)), _rotation(turns * (math.pi / 2.0)), _translation(right, down)]


def _moves(columns: Columns, probability: Probability) -> list[Matrices]:
    """As `_blits`. Rotations before and after the change of aspect are taken so that one of them happens with `probability`."""
    scale = mix(columns.taken(probability), (columns.normal() * (0.2 * math.log(2.0))).exp(), 1.0)
    once = 1.0 - (1.0 - probability).sqrt()
    before = mix(columns.taken(once), (columns.uniform() * 2.0 - 1.0) * math.pi, 0.0)
    aspect = mix(columns.taken(probability), (columns.normal() * (0.2 * math.log(2.0))).exp(), 1.0)
    after = mix(columns.taken(once), (columns.uniform() * 2.0 - 1.0) * math.pi, 0.0)
    taken = columns.taken(probability)
    right, down = (mix(taken, columns.normal() * SHIFT, 0.0) for _ in range(2))
    return [
        _scaling(1.0 / scale, 1.0 / scale),
        _rotation(-before),
        _scaling(1.0 / aspect, aspect),
        _rotation(-after),
        _translation(right, down),
    ]


def _recolorings(columns: Columns, probability: Probability) -> list[Matrices]:
    """Maps of (r, g, b, 1), in the order of application."""
    brightness = mix(columns.taken(probability), columns.normal() * 0.2, 0.0)
    contrast = mix(columns.taken(probability), (columns.normal() * (0.5 * math.log(2.0))).exp(), 1.0)
    flipped = mix(columns.taken(probability), (columns.uniform() * 2.0).floor(), 0.0)
    hue = mix(columns.taken(probability), (columns.uniform() * 2.0 - 1.0) * math.pi, 0.0)
    saturation = mix(columns.taken(probability), (columns.normal() * math.log(2.0)).exp(), 1.0)
    grey = torch.full((3,), 3.0**-0.5, dtype=hue.dtype, device=hue.device)
    along, identity = torch.outer(grey, grey), torch.eye(3, dtype=hue.dtype, device=hue.device)
    across = torch.linalg.cross(grey.expand(3, 3), identity).T  # the matrix of a cross product with grey
    parts = [_each(value) for value in (contrast, flipped, hue.cos(), hue.sin(), saturation)]
    contrasts, flips, cosines, sines, saturations = parts
    return [
        _affine(identity.expand(len(hue), 3, 3), brightness[:, None].expand(-1, 3)),
        _affine(contrasts * identity),
        _affine(identity - 2.0 * flips * along),
        _affine(cosines * identity + sines * across + (1.0 - cosines) * along),  # Rodrigues' rotation
        _affine(along + saturations * (identity - along)),
    ]


def warped(images: Images, inverse: Matrices) -> Images:
    """Each image as seen through `inverse`, which maps places of the result to places of the image, [-1, 1]^2 being all of it.

    Up-sampled twice, sampled there by bilinear interpolation, and down-sampled again (2006.06676, appendix B, "geometric").
    """
    batch, channels, size = images.shape[0], images.shape[1], images.shape[-1]
    tap = _taps(images.device, images.dtype)
    places = torch.arange(-3, size + 3, device=images.device)
    mirrored = torch.where(places < 0, -1 - places, torch.where(places < size, places, 2 * size - 1 - places))
    wide = images[:, :, mirrored][:, :, :, mirrored]
    for shape, stride in AXES:
        wide = functional.conv_transpose2d(wide, 2.0**0.5 * tap.view(shape).expand(channels, 1, *shape), stride=stride, groups=channels)
    inside = slice(6 + REACH, 6 + REACH + 2 * size)
    side = 2 * size + 2 * REACH  # with a margin for the filter
    inverse = _moved(OFFSET / size, images) @ inverse @ _moved(-OFFSET / size, images)
    linear = inverse[:, :2, :2] * (side / (2.0 * size))
    grid = functional.affine_grid(torch.cat([linear, inverse[:, :2, 2:]], 2), [batch, channels, side, side], align_corners=False)
    seen = functional.grid_sample(wide[:, :, inside, inside], grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    for shape, stride in AXES:
        seen = functional.conv2d(seen, 0.5**0.5 * tap.view(shape).expand(channels, 1, *shape), stride=stride, groups=channels)
    return seen


def recolored(images: Images, map_: Matrices) -> Images:
    """Each image's colors through its map of (r, g, b, 1); one channel is taken for three equal ones, and their mean kept."""
    if images.shape[1] == 1:
        mean = map_[:, :3].mean(1)
        return images * mean[:, :3].sum(1)[:, None, None, None] + mean[:, 3, None, None, None]
    mixed = torch.einsum("bij,bjhw->bihw", map_[:, :3, :3], images)
    return mixed + map_[:, :3, 3, None, None]


def _product(matrices: list[Matrices]) -> Matrices:
    total = matrices[0]
    for matrix in matrices[1:]:
        total = total @ matrix
    return total


def _affine(linear: Float[Tensor, "batch m m"], offset: Float[Tensor, "batch m"] | None = None) -> Matrices:
    """The matrix of x -> linear x + offset on (x, 1)."""
    count, size = linear.shape[0], linear.shape[-1]
    column = linear.new_zeros(count, size) if offset is None else offset
    last = torch.cat([linear.new_zeros(count, 1, size), linear.new_ones(count, 1, 1)], 2)
    return torch.cat([torch.cat([linear, column[:, :, None]], 2), last], 1)


@cache
def _taps(device: torch.device, dtype: torch.dtype) -> Float[Tensor, " taps"]:
    """The filter on a device, brought there once: each time would wait for it."""
    return torch.tensor(SYM6, dtype=dtype, device=device)


def _moved(by: float, images: Images) -> Float[Tensor, "1 3 3"]:
    """A shift right and down by this, in coordinates where the image is [-1, 1]^2."""
    return _affine(torch.eye(2, dtype=images.dtype, device=images.device)[None], images.new_full((1, 2), by))


def _each(value: PerImage) -> Float[Tensor, "batch 1 1"]:
    return value[:, None, None]


def _scaling(right: PerImage, down: PerImage) -> Matrices:
    return _affine(torch.diag_embed(torch.stack([right, down], 1)))


def _rotation(angle: PerImage) -> Matrices:
    rows = [torch.stack([angle.cos(), -angle.sin()], 1), torch.stack([angle.sin(), angle.cos()], 1)]
    return _affine(torch.stack(rows, 1))


def _translation(right: PerImage, down: PerImage) -> Matrices:
    """The inverse of a shift by these shares of the size, which is 2 here."""
    identity = torch.eye(2, dtype=right.dtype, device=right.device).expand(len(right), 2, 2)
    return _affine(identity, torch.stack([-2.0 * right, -2.0 * down], 1))
