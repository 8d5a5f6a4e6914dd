"""A loop as people write it by hand, in the pattern of PyTorch's DCGAN example.

Reals and fakes each go forward and backward through D on their own. G's step uses the last fakes of D's steps again, through D as it is by
then, and its backward pass also makes gradients of D's weights, which nobody uses. Three means of D's outputs are read from the device in
each round; losses are printed in each fiftieth. `fresh` draws new latents for G's step, as 1406.2661 (algorithm 1) and raygan do, which is
one forward pass of G more.
"""

import torch
from torch import nn

from tests.benchmarks.peers.side import loader, own_networks


def train(given, variant):
    work, device = given.work, given.device
    generator, discriminator = own_networks(given)
    d_optimizer = torch.optim.Adam(discriminator.parameters(), lr=2e-4, betas=work.betas)
    g_optimizer = torch.optim.Adam(generator.parameters(), lr=2e-4, betas=work.betas)
    cross_entropy = nn.BCEWithLogitsLoss()
    hinge = work.loss == "hinge"
    torch.backends.cudnn.benchmark = True
    batches = loader(given)
    d_steps = rounds = 0
    while True:
        for batch in batches:
            real = batch[0].to(device)
            label = torch.full((len(real),), 1.0, device=device)
            discriminator.zero_grad()
            output = discriminator(real)
            real_loss = torch.relu(1 - output).mean() if hinge else cross_entropy(output, label)
            real_loss.backward()
            mean_real = output.mean().item()
            fake = generator(torch.randn(len(real), work.z_dim, device=device))
            label.fill_(0.0)
            output = discriminator(fake.detach())
            fake_loss = torch.relu(1 + output).mean() if hinge else cross_entropy(output, label)
            fake_loss.backward()
            mean_fake = output.mean().item()
            d_loss = real_loss + fake_loss
            d_optimizer.step()
            d_steps += 1
            if d_steps % work.d_steps:
                continue

            generator.zero_grad()
            label.fill_(1.0)
            if variant == "fresh":
                fake = generator(torch.randn(len(real), work.z_dim, device=device))
            output = discriminator(fake)
            g_loss = -output.mean() if hinge else cross_entropy(output, label)
            g_loss.backward()
            mean_after = output.mean().item()
            g_optimizer.step()
            if rounds % 50 == 0:
                print(f"[{rounds}] Loss_D: {d_loss.item():.4f} Loss_G: {g_loss.item():.4f}", end=" ")
                print(f"D(x): {mean_real:.4f} D(G(z)): {mean_fake:.4f} / {mean_after:.4f}")
            rounds += 1
            given.tick()
