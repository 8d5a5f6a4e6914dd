"""Points of a mixture of Gaussians on a ring: the mode-collapse test of VEEGAN (1705.07761) and PacGAN (1712.04086)."""

import math
from typing import Annotated

import torch
from pydantic import Field

from gan_core.data._mixture import sample
from gan_core.datatypes import ImageDataset, Mixture


def load(
    *,
    modes: Annotated[int, Field(gt=0)] = 8,
    radius: Annotated[float, Field(gt=0.0)] = 1.0,
    standard_deviation: Annotated[float, Field(gt=0.0)] = 0.01,
    count: Annotated[int, Field(gt=0)] = 100_000,
    seed: int = 0,
) -> ImageDataset:
    """`count` points [count, 2, 1, 1], labelled by mode.

    The defaults are PacGAN's ring: 8 modes on the unit circle, deviation 0.01 in each direction. Use a generator with
    `output: linear`, because points lie outside [-1, 1] too.
    """
    angles = torch.arange(modes) * (2 * math.pi / modes)
    centres = radius * torch.stack([angles.cos(), angles.sin()], dim=1)
    return sample("ring2d", Mixture(centres, standard_deviation), count=count, seed=seed)
