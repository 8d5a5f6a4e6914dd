"""Augmentation in the game: how both sides look when the discriminator sees them, and how often; that may follow its overfitting."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gan_core.augmentations._augmentation import Augmentation
from gan_core.keyed_noise import keys, uniforms

STREAM = 2**20  # of random numbers: none that a network uses
STEPS_PER_LOOK = 4  # 2006.06676, section 3.1: the probability moves once every four minibatches

Images = Float[Tensor, "batch C H W"]


class Augmenter:
    """Augments real and fake images alike, each transformation with the same probability.

    A fixed `probability`, or None for one that begins at 0 and moves, once in STEPS_PER_LOOK discriminator steps, so that the overfitting
    heuristic r_t = E[sign D(real)] comes to `target` (2006.06676, section 3.1); from 0 to 1 it takes `full_kimg` at least. The sign is
    taken against the loss's threshold, and without one against the paired fake. Nothing here waits for the device.

    The numbers of a fake are a function of its z, so that they do not depend on how a batch is divided.
    """

    def __init__(
        self,
        augmentation: Augmentation,
        *,
        probability: float | None,
        target: float,
        full_kimg: float,
        batch_size: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.augmentation = augmentation
        self.adapts = probability is None
        self.target = target
        self.step_size = batch_size * STEPS_PER_LOOK / (full_kimg * 1000.0)
        self.probability = torch.tensor(probability or 0.0, device=device, dtype=dtype)
        self.signs = torch.zeros(2, device=device, dtype=dtype)  # the sum since the last look, and r_t at the last look

    def real(self, images: Images, numbers: Float[Tensor, "batch draws"]) -> Images:
        """Real images by numbers from [0, 1) that were drawn for them."""
        with torch.autocast(images.device.type, enabled=False):
            return self.augmentation.apply(images, numbers, self.probability)

    def fake(self, images: Images, z: Float[Tensor, "batch z_dim"]) -> Images:
        """Fake images by numbers that their latents give; the gradient goes through."""
        numbers = uniforms(keys(z), STREAM, self.augmentation.draws).to(self.probability.dtype)
        return self.real(images.to(self.probability.dtype), numbers)

    def observe(self, accuracy_real: Float[Tensor, ""]) -> None:
        """Take note of the share of this rank's reals that a discriminator step judged to be real; `signs` is averaged over ranks then."""
        if self.adapts:
            self.signs[0] += 2.0 * accuracy_real - 1.0

    def adjust(self, step: int) -> None:
        """Move the probability after discriminator step `step`, counted from 0, if a look is due."""
        if self.adapts and (step + 1) % STEPS_PER_LOOK == 0:
            overfitting = self.signs[0] / STEPS_PER_LOOK
            self.probability.add_(torch.sign(overfitting - self.target), alpha=self.step_size).clamp_(0.0, 1.0)
            self.signs[1] = overfitting
            self.signs[0] = 0.0

    def metrics(self) -> dict[str, float]:
        """`augment/probability`, and where it adapts `augment/overfitting`, r_t at the last look; waits for the device."""
        found = {"augment/probability": float(self.probability)}
        return {**found, "augment/overfitting": float(self.signs[1])} if self.adapts else found

    def state_dict(self) -> dict[str, Any]:
        """The probability and the signs."""
        return {"probability": self.probability.clone(), "signs": self.signs.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`."""
        self.probability.copy_(state["probability"])
        self.signs.copy_(state["signs"])
