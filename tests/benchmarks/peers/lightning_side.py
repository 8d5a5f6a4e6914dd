"""Lightning: its Trainer on a module in the pattern of its GAN example, with manual optimization, on gan_core's networks.

G's step comes first, and with several D steps goes with the first of them; both use one z, and G runs for each. `toggle_optimizer` takes
D's parameters out of the graph in G's step, and G's in D's. The progress bar and the logger (TensorBoard, each 50 steps) are on, as by
default; checkpoints are off.
"""

import lightning
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from tests.benchmarks.peers.side import loader, own_networks


class Gan(lightning.LightningModule):
    """The example's module."""

    def __init__(self, generator, discriminator, work):
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.discriminator, self.work = generator, discriminator, work
        self.hinge = work.loss == "hinge"

    def forward(self, z):
        return self.generator(z)

    def training_step(self, batch, batch_idx):
        real, _ = batch
        g_optimizer, d_optimizer = self.optimizers()
        z = torch.randn(real.shape[0], self.work.z_dim).type_as(real)
        losses = {}
        if batch_idx % self.work.d_steps == 0:
            valid = torch.ones(real.size(0)).type_as(real)
            self.toggle_optimizer(g_optimizer)
            logits = self.discriminator(self(z))
            g_loss = -logits.mean() if self.hinge else binary_cross_entropy_with_logits(logits, valid)
            g_optimizer.zero_grad()
            self.manual_backward(g_loss)
            g_optimizer.step()
            self.untoggle_optimizer(g_optimizer)
            losses["g_loss"] = g_loss
        valid, fake = torch.ones(real.size(0)).type_as(real), torch.zeros(real.size(0)).type_as(real)
        self.toggle_optimizer(d_optimizer)
        logits = self.discriminator(real)
        real_loss = torch.relu(1 - logits).mean() if self.hinge else binary_cross_entropy_with_logits(logits, valid)
        logits = self.discriminator(self(z).detach())
        fake_loss = torch.relu(1 + logits).mean() if self.hinge else binary_cross_entropy_with_logits(logits, fake)
        d_loss = (real_loss + fake_loss) / 2
        d_optimizer.zero_grad()
        self.manual_backward(d_loss)
        d_optimizer.step()
        self.untoggle_optimizer(d_optimizer)
        self.log_dict({"d_loss": d_loss, **losses})

    def configure_optimizers(self):
        return [torch.optim.Adam(n.parameters(), 2e-4, self.work.betas) for n in (self.generator, self.discriminator)]


def train(given, _):
    module = Gan(*own_networks(given), given.work)

    class Tick(lightning.Callback):
        """At the start of a round, so that what Lightning does after a step counts."""

        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if batch_idx % given.work.d_steps == 0:
                given.tick()

    accelerator = "gpu" if given.device.type == "cuda" else "cpu"
    trainer = lightning.Trainer(accelerator=accelerator, devices=1, max_epochs=-1, enable_checkpointing=False, callbacks=[Tick()])
    trainer.fit(module, loader(given))
