"""Scores and pictures of the averaged generator: the same real images and the same seeds each time, so that moments can be compared."""

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from gan_core import distributed, pictures, sampling
from gan_core.building import Parts
from gan_core.config import GanConfig
from gan_core.datatypes import Batch
from gan_core.metrics import kernel_distance, mode_coverage

FIRST_SEED = 2**32  # image seeds from here on are used for scores, smaller ones for pictures
GENERATE_AT_ONCE = 256


def scores(parts: Parts, config: GanConfig) -> dict[str, float]:
    """`quality/*` of `evaluate_count` images against as many real ones; ranks share the work and get the same values."""
    dataset, count = parts.dataset, config.schedule.evaluate_count
    indices = sampling.evaluation_indices(config.seed, count=min(count, len(dataset)), dataset_size=len(dataset))
    real = dataset.batch(indices, parts.device, parts.dtype, labelled=config.network.conditional)
    share = -(-count // distributed.world_size())
    first = sampling.first_of_share(share)
    labels = None if real.labels is None else real.labels[torch.arange(first, first + share) % len(real.labels)]
    fake_images = distributed.gather(generate(parts, config, FIRST_SEED + first, share, labels))[:count]
    found = kernel_distance.evaluate(real.inputs, fake_images)
    if dataset.mixture is not None:
        found |= mode_coverage.evaluate(fake_images, dataset.mixture)
    return {f"quality/{key}": value for key, value in found.items()}


def picture(parts: Parts, config: GanConfig) -> UInt8[np.ndarray, "rows columns 3"]:
    """Images of seeds 0, 1, 2 ...; with classes, a column for each."""
    count, dataset, conditional = config.schedule.sample_count, parts.dataset, config.network.conditional
    labels = torch.arange(count, device=parts.device) % dataset.num_classes if conditional else None
    few = torch.arange(min(count, len(dataset)))
    real = dataset.batch(few, parts.device, parts.dtype, labelled=False)
    columns = dataset.num_classes if conditional else None
    return pictures.picture(generate(parts, config, 0, count, labels), real.inputs, columns=columns)


@torch.no_grad()
def generate(
    parts: Parts, config: GanConfig, first_seed: int, count: int, labels: Int64[Tensor, " count"] | None
) -> Float[Tensor, "count C H W"]:
    """Images of `count` consecutive seeds by the averaged generator."""
    z = sampling.latents_of_seeds(first_seed, count, z_dim=config.network.z_dim).to(parts.device, parts.dtype)
    batches = Batch(z, labels).split(GENERATE_AT_ONCE)
    return torch.cat([parts.g_ema.network(batch.inputs, batch.labels) for batch in batches])
