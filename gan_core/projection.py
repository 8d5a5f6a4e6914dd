"""Projection: the latent whose image is nearest to a given picture, by gradient descent from the best of many random latents.

The learning rate rises and falls as in 1912.04958, appendix D. Its noise on w and its noise regularisation are left out: several starts
take their place.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from gan_core.datatypes import Batch
from gan_core.optimizers import Adam

Generate = Callable[[Batch], Tensor]
COARSEST = 4  # pixels
AT_ONCE = 256


class Projection(NamedTuple):
    """The best latent [1, dim] with its class, its image [1, C, H, W], and the image of the best random latent; errors of both images.

    `error` and `random_error` are root mean squares in grey levels, 0 to 255, of images with 256 levels.
    """

    latent: Batch
    image: Float[Tensor, "1 C H W"]
    random_image: Float[Tensor, "1 C H W"]
    error: float
    random_error: float


def learning_rate(step: int, steps: int) -> float:
    """Share of the full rate: up a line over the first 5 % of the steps, down half a cosine over the last 25 % (1912.04958, appendix D)."""
    done = (step + 1) / steps
    falling = 0.5 - 0.5 * math.cos(math.pi * min(1.0, (1.0 - done + 1.0 / steps) / 0.25))
    return falling * min(1.0, done / 0.05)


def distance(images: Float[Tensor, "batch C H W"], picture: Float[Tensor, "1 C H W"]) -> Float[Tensor, " batch"]:
    """Mean squared differences of pixels, summed over resolutions halved down to COARSEST; the coarse ones lead."""
    total = torch.zeros(len(images), device=images.device, dtype=images.dtype)
    while True:
        total = total + (images - picture).square().flatten(1).mean(1)
        if images.shape[-1] < 2 * COARSEST:
            return total
        images, picture = (torch.nn.functional.avg_pool2d(side, 2) for side in (images, picture))


def project(
    generate: Generate,
    picture: Float[Tensor, "1 C H W"],
    candidates: Batch,
    *,
    starts: int = 8,
    steps: int = 500,
    rate: float = 0.1,
) -> Projection:
    """Adam from the `starts` nearest of `candidates` (latents with their classes, which are kept), `steps` steps; the best that was met.

    `picture` is in [-1, 1]. `generate` makes images of a batch of latents, and lets gradients through.
    """
    with torch.no_grad():
        drawn = torch.cat([distance(generate(part), picture) for part in candidates.split(AT_ONCE)])
    chosen = drawn.argsort(stable=True)[:starts]
    labels = None if candidates.labels is None else candidates.labels[chosen]
    latents = candidates.inputs[chosen].clone().requires_grad_(True)
    best, best_latents = drawn[chosen].clone(), latents.detach().clone()
    optimizer = Adam([latents])
    for step in range(steps + 1):
        distances = distance(generate(Batch(latents, labels)), picture)
        better = distances.detach() < best
        best = torch.where(better, distances.detach(), best)
        best_latents = torch.where(better[:, None], latents.detach(), best_latents)
        if step < steps:
            optimizer.zero_grad()
            distances.sum().backward()
            optimizer.param_groups[0]["lr"] = rate * learning_rate(step, steps)
            optimizer.step()
    winner = int(best.argmin())
    found = Batch(best_latents[winner : winner + 1], None if labels is None else labels[winner : winner + 1])
    random = Batch(candidates.inputs[chosen[:1]], None if labels is None else labels[:1])
    with torch.no_grad():
        image, random_image = generate(found), generate(random)
    return Projection(found, image, random_image, grey_levels(image, picture), grey_levels(random_image, picture))


def grey_levels(image: Float[Tensor, "1 C H W"], picture: Float[Tensor, "1 C H W"]) -> float:
    """Root mean square difference in grey levels, 0 to 255, of two images in [-1, 1], each rounded to 256 levels."""
    ours, theirs = (((side.double() + 1.0) * 127.5).round().clamp(0.0, 255.0) for side in (image, picture))
    return float((ours - theirs).square().mean().sqrt())


def decibels(error: float) -> float:
    """The peak signal-to-noise ratio of an error in grey levels; infinite for 0."""
    return 20.0 * math.log10(255.0 / error) if error > 0.0 else math.inf
