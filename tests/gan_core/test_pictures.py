import numpy as np
import torch

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
