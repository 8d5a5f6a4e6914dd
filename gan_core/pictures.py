"""Batches as pictures: image grids, and scatter plots for 2-D points."""

import math

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

SMALLEST_TILE = 48  # pixels: an 8x8 digit is legible when each pixel is shown as 6x6
PLOT_SIZE = 512
GAP = 2  # pixels between tiles


def picture(
    fake_images: Float[Tensor, "fake channels height width"],
    real_images: Float[Tensor, "real channels height width"],
    *,
    columns: int | None = None,
) -> UInt8[np.ndarray, "rows columns 3"]:
    """What to look at: a grid of the fake images, or for 2-D points a plot of fake (orange) over real (blue)."""
    if fake_images.shape[1:] == (2, 1, 1):
        return _scatter(fake_images.flatten(1), real_images.flatten(1))
    return grid(fake_images, columns=columns)


def grid(images: Float[Tensor, "batch channels height width"], *, columns: int | None = None) -> UInt8[np.ndarray, "rows columns 3"]:
    """Images in [-1, 1] in `columns` columns (default: near-square); small ones are enlarged by whole factors, not smoothed."""
    scale = math.ceil(SMALLEST_TILE / images.shape[-1])
    pixels = ((images.detach().float().cpu() + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)
    tiles = pixels.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    return _tiled(tiles.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy(), columns or math.ceil(math.sqrt(len(tiles))))


def _tiled(tiles: UInt8[np.ndarray, "batch height width 3"], columns: int) -> UInt8[np.ndarray, "rows columns 3"]:
    """Tiles in rows with white lines between and around them; one alone has none. torchvision's make_grid, whose import takes seconds."""
    count, height, width, _ = tiles.shape
    if count == 1:
        return np.ascontiguousarray(tiles[0])
    columns = min(columns, count)
    canvas = np.full(((height + GAP) * math.ceil(count / columns) + GAP, (width + GAP) * columns + GAP, 3), 255, np.uint8)
    for index, tile in enumerate(tiles):
        top, left = (height + GAP) * (index // columns) + GAP, (width + GAP) * (index % columns) + GAP
        canvas[top : top + height, left : left + width] = tile
    return canvas


def _scatter(fake: Tensor, real: Tensor) -> UInt8[np.ndarray, "rows columns 3"]:
    """Points drawn into the square that holds the real ones with a margin of a quarter; fakes outside it are not shown."""
    canvas = np.full((PLOT_SIZE, PLOT_SIZE, 3), 255, np.uint8)
    reach = float(real.abs().max()) * 1.25
    for points, colour in ((real, (66, 133, 244)), (fake, (230, 100, 20))):
        places = ((points.detach().float().cpu().numpy() / reach + 1.0) * (PLOT_SIZE / 2)).astype(int)
        inside = places[((places >= 1) & (places < PLOT_SIZE - 1)).all(axis=1)]
        for across in (-1, 0, 1):
            for down in (-1, 0, 1):
                canvas[PLOT_SIZE - 1 - inside[:, 1] + down, inside[:, 0] + across] = colour
    return canvas
