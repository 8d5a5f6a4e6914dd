"""Points of a mixture of Gaussians on a square grid: the harder mode-collapse test of VEEGAN (1705.07761) and PacGAN (1712.04086)."""

from typing import Annotated

import torch
from pydantic import Field

from gan_core.data._mixture import sample
from gan_core.datatypes import ImageDataset, Mixture


def load(
    *,
    side: Annotated[int, Field(gt=0)] = 5,
    spacing: Annotated[float, Field(gt=0.0)] = 2.0,
    standard_deviation: Annotated[float, Field(gt=0.0)] = 0.05,
    count: Annotated[int, Field(gt=0)] = 100_000,
    seed: int = 0,
) -> ImageDataset:
    """`count` points [count, 2, 1, 1] from side x side modes around the origin, labelled by mode.

    The defaults are PacGAN's grid: 25 modes at {-4, -2, 0, 2, 4}^2, deviation 0.05 in each direction. Use a generator with
    `output: linear`.
    """
    line = spacing * (torch.arange(side) - (side - 1) / 2)
    return sample("grid2d", Mixture(torch.cartesian_prod(line, line), standard_deviation), count=count, seed=seed)
