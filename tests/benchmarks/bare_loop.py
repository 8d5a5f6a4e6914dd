"""The floor: the same networks, data, batch and optimizers in the shortest PyTorch loop that trains them, on one thread.

`python -m tests.benchmarks.bare_loop CONFIG FILE [key=value ...]` trains until it is ended, and writes the time after each step to FILE.
"""

import sys
import time
from pathlib import Path

import torch
from torch.nn.functional import softplus

from gan_core.building import build_networks, load_dataset
from gan_core.overrides import merge, parse, validate
from pipelines.config import JobConfig, load_named


def train(config: JobConfig, file: Path) -> None:
    """One discriminator and one generator step, for ever."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    gan = config.gan()
    dataset = load_dataset(gan)
    generator, discriminator = build_networks(gan, dataset)
    options = ((network, getattr(gan.optimizer, name)) for network, name in ((generator, "generator"), (discriminator, "discriminator")))
    g_adam, d_adam = (torch.optim.Adam(n.parameters(), lr=a.lr, betas=(a.beta1, a.beta2), eps=a.eps, foreach=True) for n, a in options)
    batch, z_dim, conditional = gan.batch_size, gan.network.z_dim, gan.network.conditional
    with file.open("w") as times:
        while True:
            chosen = torch.randint(len(dataset), (batch,))
            real = dataset.images[chosen].float() / 127.5 - 1
            labels = dataset.labels[chosen] if conditional and dataset.labels is not None else None
            d_adam.zero_grad()
            with torch.no_grad():
                fake = generator(torch.randn(batch, z_dim), labels)
            (softplus(-discriminator(real, labels)) + softplus(discriminator(fake, labels))).mean().backward()
            d_adam.step()
            g_adam.zero_grad()
            discriminator.requires_grad_(False)
            softplus(-discriminator(generator(torch.randn(batch, z_dim), labels), labels)).mean().backward()
            discriminator.requires_grad_(True)
            g_adam.step()
            times.write(f"{time.time()}\n")
            times.flush()


if __name__ == "__main__":
    tree = merge(load_named(sys.argv[1]), dict(parse(word) for word in sys.argv[3:]))
    train(validate(tree, JobConfig), Path(sys.argv[2]))
