"""Points of a Gaussian mixture of any layout in the plane: unequal weights and widths, as in the mode-collapse tests of 1611.02163."""

from typing import Annotated

import torch
from pydantic import Field

from gan_core.data._mixture import sample
from gan_core.datatypes import ImageDataset, Mixture

Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Coordinate = Annotated[float, Field(allow_inf_nan=False)]
Point = Annotated[list[Coordinate], Field(min_length=2, max_length=2)]


def load(
    *,
    centres: Annotated[list[Point], Field(min_length=1)],
    standard_deviation: Positive | Annotated[list[Positive], Field(min_length=1)] = 0.05,
    weights: Annotated[list[Positive], Field(min_length=1)] | None = None,
    count: Annotated[int, Field(gt=0)] = 100_000,
    seed: int = 0,
) -> ImageDataset:
    """`count` points [count, 2, 1, 1], labelled by mode: a Gaussian around each of `centres`, [x, y], with one `standard_deviation` in each
    direction, or one for each. `weights` are how often modes occur, in proportion; null is equally often. Use a generator with
    `output: linear`.

    Raises:
        ValueError: deviations or weights are not as many as centres.
    """
    for key, given in (("standard_deviation", standard_deviation), ("weights", weights)):
        if isinstance(given, list) and len(given) != len(centres):
            raise ValueError(f"data.{key}: {len(given)} for {len(centres)} centres; give one for each")
    places = torch.tensor(centres, dtype=torch.float32)
    deviation = torch.tensor(standard_deviation) if isinstance(standard_deviation, list) else standard_deviation
    shares = None if weights is None else torch.tensor(weights, dtype=torch.float64).div(sum(weights)).float()
    return sample("mixture2d", Mixture(places, deviation, shares), count=count, seed=seed)
