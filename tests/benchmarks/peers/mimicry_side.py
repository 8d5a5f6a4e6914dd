"""torch-mimicry: its Trainer and its steps, on gan_core's networks in its base classes, or on its `own` SNGAN-32.

While the package is imported, its metrics import TensorFlow, and its ImageNet asks torch._six for PY3, which PyTorch no longer has;
training uses neither, and empty modules stand in for them. Prints and summaries are made each 10 rounds as in its README; pictures and
checkpoints never.
"""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import torch
import torch.utils.tensorboard  # before the module that stands in for TensorFlow, because it asks whether there is one

from tests.benchmarks.peers.side import loader, own_networks

STAND_INS = {name: ModuleType(name) for name in ("tensorflow", "torch._six")}
STAND_INS["tensorflow"].__spec__ = ModuleSpec("tensorflow", None)  # PyTorch asks for it
STAND_INS["torch._six"].PY3 = True
sys.modules |= STAND_INS
from torch_mimicry.nets.gan.gan import BaseDiscriminator, BaseGenerator  # noqa: E402
from torch_mimicry.nets.sngan.sngan_32 import SNGANDiscriminator32, SNGANGenerator32  # noqa: E402
from torch_mimicry.training import Trainer  # noqa: E402

for name in STAND_INS:
    del sys.modules[name]
NEVER = 10**9


class Generator(BaseGenerator):
    """A generator of gan_core's with mimicry's step."""

    def __init__(self, network, z_dim, loss):
        super().__init__(nz=z_dim, ngf=0, bottom_width=0, loss_type=loss)
        self.network = network

    def forward(self, z):
        return self.network(z)


class Discriminator(BaseDiscriminator):
    """A discriminator of gan_core's with mimicry's step."""

    def __init__(self, network, loss):
        super().__init__(ndf=0, loss_type=loss)
        self.network = network

    def forward(self, images):
        return self.network(images)[:, None]


def train(given, variant):
    work = given.work
    loss = {"non_saturating": "ns", "hinge": "hinge"}[work.loss]
    if variant == "own":
        width = work.generator.get("width", 64)
        generator = SNGANGenerator32(nz=work.z_dim, ngf=4 * width, loss_type=loss)
        discriminator = SNGANDiscriminator32(ndf=2 * width, loss_type=loss)
    else:
        g, d = own_networks(given)
        generator, discriminator = Generator(g, work.z_dim, loss), Discriminator(d, loss)
    for network in (generator, discriminator):
        network.to(given.device)
    d_adam, g_adam = (torch.optim.Adam(network.parameters(), 2e-4, work.betas) for network in (discriminator, generator))
    g_adam.register_step_post_hook(given.tick)
    Trainer(
        netD=discriminator,
        netG=generator,
        optD=d_adam,
        optG=g_adam,
        n_dis=work.d_steps,
        num_steps=NEVER,
        dataloader=loader(given),
        device=given.device,
        print_steps=10,
        log_steps=10,
        vis_steps=NEVER,
        save_steps=NEVER,
    ).train()
