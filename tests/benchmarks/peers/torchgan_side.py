"""torchgan: its Trainer and its losses' steps, on gan_core's networks in its base classes, or on its `own` DCGAN.

It has no hinge loss: here it is written as its API asks. Without tensorboardX, which is optional, it logs to the console only. Models and
pictures, which it saves after each epoch, are not saved (and its pictures need an argument that torchvision has dropped).
"""

import torch
from torch.optim import Adam
from torchgan.losses import MinimaxDiscriminatorLoss, MinimaxGeneratorLoss
from torchgan.losses.loss import DiscriminatorLoss, GeneratorLoss
from torchgan.models import DCGANDiscriminator, DCGANGenerator
from torchgan.models.model import Discriminator, Generator
from torchgan.trainer import Trainer

from tests.benchmarks.peers.side import loader, own_networks


class OwnGenerator(Generator):
    """A generator of gan_core's."""

    def __init__(self, network, z_dim):
        super().__init__(z_dim)
        self.network = network

    def forward(self, z):
        return self.network(z)


class OwnDiscriminator(Discriminator):
    """A discriminator of gan_core's."""

    def __init__(self, network, channels):
        super().__init__(channels)
        self.network = network

    def forward(self, images):
        return self.network(images)


class HingeGeneratorLoss(GeneratorLoss):
    """1802.05957, eq. 17."""

    def forward(self, dgz):
        return -dgz.mean()


class HingeDiscriminatorLoss(DiscriminatorLoss):
    """1802.05957, eq. 16."""

    def forward(self, dx, dgz):
        return torch.relu(1 - dx).mean() + torch.relu(1 + dgz).mean()


def train(given, variant):
    work, options = given.work, {"lr": 2e-4, "betas": given.work.betas}
    if variant == "own":
        generator = DCGANGenerator, {"encoding_dims": work.z_dim, "out_size": work.resolution, "out_channels": work.channels}
        discriminator = DCGANDiscriminator, {"in_size": work.resolution, "in_channels": work.channels}
    else:
        g, d = own_networks(given)
        generator = OwnGenerator, {"network": g, "z_dim": work.z_dim}
        discriminator = OwnDiscriminator, {"network": d, "channels": work.channels}
    models = {
        name: {"name": make, "args": arguments, "optimizer": {"name": Adam, "args": options}}
        for name, (make, arguments) in (("generator", generator), ("discriminator", discriminator))
    }
    hinge = work.loss == "hinge"
    losses = [HingeGeneratorLoss(), HingeDiscriminatorLoss()] if hinge else [MinimaxGeneratorLoss(), MinimaxDiscriminatorLoss()]
    trainer = Trainer(models, losses, device=given.device, ncritic=work.d_steps, epochs=10**9)
    trainer.optimizer_generator.register_step_post_hook(given.tick)
    trainer.save_model = trainer.logger.run_end_epoch = lambda *_, **__: None
    trainer(loader(given))
