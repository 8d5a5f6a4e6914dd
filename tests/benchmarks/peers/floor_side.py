"""The bare floor: forward, backward and optimizer calls of the same algorithm, with nothing around them."""

import torch
from torch.nn.functional import relu, softplus

from tests.benchmarks.peers.side import own_networks, pixels


def train(given, _):
    work, device = given.work, given.device
    generator, discriminator = own_networks(given)
    images = pixels(given).to(device)
    options = {"lr": 2e-4, "betas": work.betas, "fused": True}
    g_adam, d_adam = (torch.optim.Adam(network.parameters(), **options) for network in (generator, discriminator))
    hinge = work.loss == "hinge"

    def z():
        return torch.randn(work.batch, work.z_dim, device=device)

    while True:
        for _ in range(work.d_steps):
            chosen = torch.randint(len(images), (work.batch,), device=device)
            real = images.index_select(0, chosen).float().mul_(1 / 127.5).sub_(1.0)
            d_adam.zero_grad()
            with torch.no_grad():
                fake = generator(z())
            real_logits, fake_logits = discriminator(real), discriminator(fake)
            loss = relu(1 - real_logits) + relu(1 + fake_logits) if hinge else softplus(-real_logits) + softplus(fake_logits)
            loss.mean().backward()
            d_adam.step()
        g_adam.zero_grad()
        discriminator.requires_grad_(False)
        logits = discriminator(generator(z()))
        (-logits if hinge else softplus(-logits)).mean().backward()
        discriminator.requires_grad_(True)
        g_adam.step()
        given.tick()
