"""DCGAN's two networks in PyTorch's own layers, as PyTorch's example writes them: the functions of gan_core's, with weights of its names.

gan_core.networks.dcgan writes some of the same layers as other, quicker ones.
"""

from itertools import pairwise

from torch import nn

from gan_core.networks import dcgan


class Generator(nn.Module):
    """As gan_core's, for images without classes."""

    def __init__(self, resolution, channels, z_dim, width=64, max_width=512):
        super().__init__()
        base, widths = dcgan._plan(resolution, width, max_width)
        layers = [nn.ConvTranspose2d(z_dim, widths[-1], base, 1, 0, bias=False), nn.BatchNorm2d(widths[-1]), nn.ReLU(True)]
        for width_in, width_out in pairwise(widths[::-1]):
            layers += [nn.ConvTranspose2d(width_in, width_out, 4, 2, 1, bias=False), nn.BatchNorm2d(width_out), nn.ReLU(True)]
        self.layers = nn.Sequential(*layers, nn.ConvTranspose2d(widths[0], channels, 4, 2, 1), nn.Tanh())

    def forward(self, z):
        return self.layers(z[:, :, None, None])


class Discriminator(nn.Module):
    """As gan_core's, for images without classes."""

    def __init__(self, resolution, channels, width=64, max_width=512):
        super().__init__()
        base, widths = dcgan._plan(resolution, width, max_width)
        layers = [nn.Conv2d(channels, widths[0], 4, 2, 1), nn.LeakyReLU(0.2, True)]
        for width_in, width_out in pairwise(widths):
            layers += [nn.Conv2d(width_in, width_out, 4, 2, 1, bias=False), nn.BatchNorm2d(width_out), nn.LeakyReLU(0.2, True)]
        self.features, self.logit = nn.Sequential(*layers), nn.Conv2d(widths[-1], 1, base)

    def forward(self, images):
        return self.logit(self.features(images)).flatten()


def networks(work, device):
    """Both, with the weights that gan_core would give them."""
    from tests.benchmarks.peers import workloads

    g = Generator(work.resolution, work.channels, work.z_dim, **work.generator)
    d = Discriminator(work.resolution, work.channels, **work.discriminator)
    for plain, own in zip((g, d), workloads.networks(work, "cpu"), strict=True):
        plain.load_state_dict(own.state_dict())
    return [network.to(device).train() for network in (g, d)]
