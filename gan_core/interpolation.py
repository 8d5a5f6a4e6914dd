"""Ways between latents: on the sphere for z, straight for w."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Between = Callable[[Tensor, Tensor, float], Tensor]


def spherical(start: Float[Tensor, " z_dim"], end: Float[Tensor, " z_dim"], share: float) -> Float[Tensor, " z_dim"]:
    """`share` of the way on the great circle (1609.04468, section 2.1); straight where the two have one direction, or opposite ones.

    Normal z lie near a sphere of radius sqrt(z_dim): a straight way would pass through lengths that the generator never saw.
    """
    cosine = torch.nn.functional.cosine_similarity(start.double(), end.double(), dim=0).clamp(-1.0, 1.0)
    angle = torch.arccos(cosine)
    if float(angle.sin()) < 1e-6:
        return straight(start, end, share)
    way = torch.sin((1.0 - share) * angle) / angle.sin() * start + torch.sin(share * angle) / angle.sin() * end
    return way.to(start.dtype)


def straight(start: Float[Tensor, " w_dim"], end: Float[Tensor, " w_dim"], share: float) -> Float[Tensor, " w_dim"]:
    """`share` of the way on the line."""
    return start + share * (end - start)


def way(points: Float[Tensor, "points dim"], frames: int, between: Between, *, closed: bool) -> Float[Tensor, "frames dim"]:
    """`frames` latents at equal distances in time from the first point through all of them to the last.

    `closed` goes on to the first point, and stops one frame before it, so that a repeated film does not halt there.
    """
    stops = [*points, points[0]] if closed else list(points)
    legs = len(stops) - 1
    found = []
    for frame in range(frames):
        place = frame * legs / (frames if closed else max(frames - 1, 1))
        leg = min(int(place), legs - 1)
        found.append(between(stops[leg], stops[leg + 1], place - leg))
    return torch.stack(found)
