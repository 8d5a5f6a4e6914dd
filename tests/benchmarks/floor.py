"""The floor of a training step: the same networks, data, batch, losses and fused Adam in the shortest PyTorch loop that trains them.

No average of the generator, no statistics, no checks, no numbers that depend on a step's count. What a loop may choose without changing
what is computed is tried, and the fastest is the floor: D on fakes and reals in one pass or two (where D neither
looks across a batch nor draws or counts passes), and channels last. R1 and R2 at every step are of the loss's own pass.
"""

import time
from contextlib import nullcontext
from itertools import product

import torch
from torch.nn.functional import relu, softplus
from torch.nn.utils import parametrize

from gan_core.building import build_networks, load_dataset, resolved_precision

# Each side's mean over a batch: discriminator(real, fake), generator(real, fake). 1406.2661; 1802.05957, section 4; 1807.00734, eq. 6
LOSSES = {
    "non_saturating": (lambda real, fake: (softplus(-real) + softplus(fake)).mean(), lambda _, fake: softplus(-fake).mean()),
    "hinge": (lambda real, fake: (relu(1 - real) + relu(1 + fake)).mean(), lambda _, fake: -fake.mean()),
    "relativistic": (lambda real, fake: softplus(fake - real).mean(), lambda real, fake: softplus(real - fake).mean()),
}


class Floor:
    """One of the ways to write the loop; `step_discriminator` and `step_generator` are what is timed."""

    def __init__(self, config, device, *, joint, channels_last):
        require_known(config)
        torch.manual_seed(0)
        self.way = {"joint": joint, "channels_last": channels_last}
        self.name = ("one pass" if joint else "two passes") + (", channels last" if channels_last else "")
        self.device, self.joint, self.ratio = torch.device(device), joint, config.ratio
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        dataset = load_dataset(config)
        networks = (network.to(self.device).train() for network in build_networks(config, dataset))
        self.generator, self.discriminator = (n.to(memory_format=self.format) if channels_last else n for n in networks)
        self.images = dataset.images.to(self.device)
        self.g_adam, self.d_adam = (
            torch.optim.Adam(n.parameters(), lr=a.lr, betas=(a.beta1, a.beta2), eps=a.eps, fused=True)
            for n, a in ((self.generator, config.optimizer.generator), (self.discriminator, config.optimizer.discriminator))
        )
        self.d_loss, self.g_loss = LOSSES[config.loss.name]
        self.compares = config.loss.name == "relativistic"
        self.batch, self.z_dim = config.batch_size, config.network.z_dim
        self.r1, self.r2, self.r1_interval = (getattr(config.regularizers, key) for key in ("r1_gamma", "r2_gamma", "r1_interval"))
        self.bfloat16 = resolved_precision(config, self.device) == "bfloat16"
        self.d_steps = 0

    def autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16) if self.bfloat16 else nullcontext()

    def real(self):
        chosen = torch.randint(len(self.images), (self.batch,), device=self.device)
        return self.images.index_select(0, chosen).float().mul_(1 / 127.5).sub_(1.0).contiguous(memory_format=self.format)

    def fake(self):
        with self.autocast():
            return self.generator(torch.randn(self.batch, self.z_dim, device=self.device))

    def logits(self, images):
        with self.autocast():
            return self.discriminator(images).float()

    def both(self, real, fake):
        """Logits of reals and of fakes."""
        if self.joint:
            return self.logits(torch.cat([real, fake.to(real.dtype)])).chunk(2)
        fake_logits = self.logits(fake)
        return self.logits(real), fake_logits

    def step_discriminator(self):
        self.d_adam.zero_grad()
        real = self.real()
        with torch.no_grad():
            fake = self.fake()
        every_step = self.r1_interval == 1
        if every_step and self.r1:
            real.requires_grad_()
        if self.r2:
            fake.requires_grad_()
        logits = self.both(real, fake)
        loss = self.d_loss(*logits)
        for gamma, scores, images in ((self.r1 if every_step else 0.0, logits[0], real), (self.r2, logits[1], fake)):
            if gamma:
                loss = loss + 0.5 * gamma * self.squared_slope(scores, images)
        loss.backward()
        self.d_adam.step()
        if self.r1 and not every_step and self.d_steps % self.r1_interval == 0:
            self.d_adam.zero_grad()
            real.requires_grad_()
            (0.5 * self.r1 * self.r1_interval * self.squared_slope(self.discriminator(real), real)).backward()
            self.d_adam.step()
        self.d_steps += 1

    @staticmethod
    def squared_slope(logits, images):
        (slope,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
        return slope.square().sum((1, 2, 3)).mean()

    def step_generator(self):
        self.g_adam.zero_grad()
        self.discriminator.requires_grad_(False)
        fake = self.fake()
        real = self.logits(self.real()) if self.compares else None
        self.g_loss(real, self.logits(fake)).backward()
        self.discriminator.requires_grad_(True)
        self.g_adam.step()

    def round(self):
        for _ in range(self.ratio.d):
            self.step_discriminator()
        for _ in range(self.ratio.g):
            self.step_generator()


def require_known(config):
    """What the loop does not do may not be asked for."""
    asked = config.regularizers
    unknown = [name for name in asked.in_force if name not in ("r1", "r2")]
    if asked.path_length_weight or asked.clip_weight or asked.r2_interval != 1:
        unknown.append("path length, clipping or lazy R2")
    if unknown or config.loss.name not in LOSSES or config.augment.name or config.network.conditional or config.precision == "float64":
        raise ValueError(
            f"the floor knows {', '.join(LOSSES)} with R1 and R2, unconditional and without augmentation; given {unknown or config.loss}"
        )


def ways(config):
    """The ways to write the loop, as keyword arguments of Floor."""
    networks = build_networks(config, load_dataset(config))
    apart = (torch.nn.modules.batchnorm._BatchNorm, torch.nn.Dropout, parametrize.ParametrizationList)
    joint = (False,) if any(isinstance(module, apart) for module in networks[1].modules()) else (False, True)
    convolutional = any(parameter.ndim == 4 for network in networks for parameter in network.parameters())
    return [dict(zip(("joint", "channels_last"), way)) for way in product(joint, (False, True) if convolutional else (False,))]


def fastest(config, device, rounds=2):
    """The fastest way on this machine, by the shortest of a few rounds of each, and all ways' seconds."""
    loops = [Floor(config, device, **way) for way in ways(config)]
    seconds = {loop.name: [timed(loop.round, device) for _ in range(2)][1:] for loop in loops}
    for _ in range(rounds - 1):  # in turns
        for loop in loops:
            seconds[loop.name].append(timed(loop.round, device))
    shortest = {name: min(found) for name, found in seconds.items()}
    return min(loops, key=lambda loop: shortest[loop.name]), shortest


def timed(function, device):
    """Seconds of a call, and of what it left the device to do."""
    started = time.perf_counter()
    function()
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started
