"""Points of a mixture of isotropic Gaussians in the plane."""

from hashlib import sha256

import torch

from gan_core.datatypes import ImageDataset, Mixture


def sample(name: str, mixture: Mixture, *, count: int, seed: int) -> ImageDataset:
    """`count` points as float32 images [count, 2, 1, 1], labelled by mode."""
    source = torch.Generator().manual_seed(seed)
    modes = len(mixture.centres)
    if mixture.weights is None:
        labels = torch.randint(modes, (count,), generator=source)
    else:
        labels = torch.multinomial(mixture.weights, count, replacement=True, generator=source)
    points = mixture.centres[labels] + mixture.deviation_of(labels) * torch.randn(count, 2, generator=source)
    content = sha256(points.numpy().tobytes()).hexdigest()
    return ImageDataset(
        name, points[:, :, None, None], labels, content, num_classes=modes, source=f"generated, seed {seed}", mixture=mixture
    )
