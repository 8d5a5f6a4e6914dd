"""The floor: the same networks, data, batch and optimizers in the shortest PyTorch loop that trains them, on one thread.

`python -m tests.benchmarks.bare_loop CONFIG STEPS [key=value ...]` prints seconds per step.
"""

import sys
import time

import torch
from torch.nn.functional import softplus

from gan_core.building import build_networks, load_dataset
from gan_core.overrides import merge, parse, validate
from pipelines.config import JobConfig, load_named

WARM_UP = 20


def seconds_per_step(config: JobConfig, steps: int) -> float:
    """The mean over `steps` rounds of one discriminator and one generator step, after a warm-up."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    gan = config.gan()
    dataset = load_dataset(gan)
    generator, discriminator = build_networks(gan, dataset)
    options = ((network, getattr(gan.optimizer, name)) for network, name in ((generator, "generator"), (discriminator, "discriminator")))
    g_adam, d_adam = (torch.optim.Adam(n.parameters(), lr=a.lr, betas=(a.beta1, a.beta2), eps=a.eps, foreach=True) for n, a in options)
    batch, z_dim, conditional = gan.batch_size, gan.network.z_dim, gan.network.conditional
    started = 0.0
    for step in range(steps + WARM_UP):
        if step == WARM_UP:
            started = time.perf_counter()
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
    return (time.perf_counter() - started) / steps


if __name__ == "__main__":
    tree = merge(load_named(sys.argv[1]), dict(parse(word) for word in sys.argv[3:]))
    print(seconds_per_step(validate(tree, JobConfig), int(sys.argv[2])))
