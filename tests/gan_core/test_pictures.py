import numpy as np
import pytest
import torch
from torchvision.utils import make_grid

from gan_core import pictures


def test_pixels_are_enlarged_by_whole_factors_and_not_smoothed():
    images = torch.tensor([[-1.0, 1.0], [0.0, -1.0]]).expand(4, 1, 2, 2)
    grid = pictures.grid(images)
    assert grid.shape == (2 * 50 + 2, 2 * 50 + 2, 3)
    tile = grid[2:50, 2:50]
    assert set(np.unique(tile)) == {0, 128, 255}
    assert (tile[:24, :24] == 0).all() and (tile[:24, 24:] == 255).all() and (tile[24:, :24] == 128).all()


def test_large_images_keep_their_size():
    assert pictures.grid(torch.zeros(2, 3, 64, 64)).shape == (64 + 4, 2 * 66 + 2, 3)


def test_values_outside_the_range_are_clipped():
    assert set(np.unique(pictures.grid(torch.full((1, 1, 48, 48), 7.0)))) == {255}


def test_columns_can_be_chosen():
    assert pictures.grid(torch.zeros(6, 1, 48, 48), columns=6).shape == (52, 6 * 50 + 2, 3)


@pytest.mark.parametrize(("count", "channels", "columns"), [(1, 1, 1), (1, 3, 4), (2, 3, 1), (5, 1, 3), (7, 3, 7), (6, 1, 20)])
def test_grids_are_those_of_torchvision(count, channels, columns):
    images = torch.rand(count, channels, 50, 48) * 2 - 1
    pixels = ((images + 1) * 127.5).round().to(torch.uint8)
    theirs = make_grid(pixels, nrow=columns, padding=2, pad_value=255).permute(1, 2, 0).numpy()
    assert np.array_equal(pictures.grid(images, columns=columns), theirs)
