"""The floors of `raygan train`, on one thread: the core's own loop without Ray, MLflow and a bar, or the shortest PyTorch loop that trains
the same networks.

    python -m tests.benchmarks.bare_loop core|plain CONFIG FILE [key=value ...]
    torchrun --nproc-per-node 2 -m tests.benchmarks.bare_loop core|plain CONFIG FILE [key=value ...]

trains until it is ended, and writes to FILE the time after each report (core) or each step (plain). With several ranks `plain` is
PyTorch's DistributedDataParallel.
"""

import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.functional import softplus
from torch.nn.parallel import DistributedDataParallel

from gan_core import Trainer, distributed
from gan_core.building import build_networks, load_dataset
from gan_core.overrides import merge, parse, validate
from pipelines import pages
from pipelines.config import JobConfig, load_named


def core(config: JobConfig, note) -> None:
    """gan_core's loop with the config's schedule of reports, which go into a list."""
    reports = []

    def receive(report):
        reports.append(report)
        note()

    Trainer(config.gan(), device="cpu").run(receive)


def plain(config: JobConfig, note) -> None:
    """One discriminator and one generator step, for ever."""
    gan = config.gan()
    dataset = load_dataset(gan)
    generator, discriminator = build_networks(gan, dataset)
    options = ((network, getattr(gan.optimizer, name)) for network, name in ((generator, "generator"), (discriminator, "discriminator")))
    g_adam, d_adam = (torch.optim.Adam(n.parameters(), lr=a.lr, betas=(a.beta1, a.beta2), eps=a.eps, foreach=True) for n, a in options)
    batch, z_dim, conditional = gan.batch_size // distributed.world_size(), gan.network.z_dim, gan.network.conditional
    parameters = list(discriminator.parameters())
    if distributed.world_size() > 1:  # broadcast buffers would change between the discriminator's two passes
        generator, discriminator = (DistributedDataParallel(n, broadcast_buffers=False) for n in (generator, discriminator))
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
        for parameter in parameters:
            parameter.requires_grad_(False)
        critic = discriminator if distributed.world_size() == 1 else discriminator.module
        softplus(-critic(generator(torch.randn(batch, z_dim), labels), labels)).mean().backward()
        for parameter in parameters:
            parameter.requires_grad_(True)
        g_adam.step()
        note()


LOOPS = {"core": core, "plain": plain}


def main() -> None:
    """Train, with the ranks that torchrun made if it did."""
    loop, name, file = LOOPS[sys.argv[1]], sys.argv[2], Path(sys.argv[3])
    config = validate(merge(load_named(name), dict(parse(word) for word in sys.argv[4:])), JobConfig)
    torch.set_num_threads(1)
    if loop is core:
        pages.keep()  # as `raygan train` does: what is compared is all around the loop
    torch.manual_seed(0)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        dist.init_process_group("gloo")
    with file.open("w") if distributed.rank() == 0 else open(os.devnull, "w") as times:

        def note():
            times.write(f"{time.time()}\n")
            times.flush()

        loop(config, note)


if __name__ == "__main__":
    main()
