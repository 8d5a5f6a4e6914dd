"""What the steps are fed with: real images, latents, labels and the numbers of penalties, each a function of config and step counters."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from gan_core import sampling
from gan_core.building import Parts
from gan_core.config import GanConfig
from gan_core.datatypes import Batch, to_device

AT_ONCE = 16  # steps whose numbers are drawn together: each after the first takes a third of the time, with the code in the cache
AT_ONCE_NUMBERS = 2**16  # of the global batch, so that a GPU does not wait for them

DIAGNOSE = "diagnose/"
TRAIN, HELD_OUT = f"{DIAGNOSE}train", f"{DIAGNOSE}held out"


class _Block(NamedTuple):
    first: int
    drawn: list[Tensor]


class Supply:
    """This rank's part of what the global batch of any step consists of. It remembers a few steps from the last one asked for on, so that
    nobody may write to what it gives.
    """

    def __init__(self, config: GanConfig, parts: Parts) -> None:
        self.config, self.parts = config, parts
        self._blocks: dict[str, _Block] = {}

    def _drawn(self, stream: str, step: int, draw: Callable[[int], Tensor], *, numbers: int) -> Tensor:
        """`draw(step)`, which is of so many `numbers` of the stream."""
        block = self._blocks.get(stream)
        if block is None or not 0 <= step - block.first < len(block.drawn):
            count = max(1, min(AT_ONCE, AT_ONCE_NUMBERS // max(1, numbers)))
            block = self._blocks[stream] = _Block(step, [draw(at) for at in range(step, step + count)])
        return block.drawn[step - block.first]

    def real(self, player: str, step: int) -> Batch:
        """The real images of a player's step, as the discriminator is to see them."""
        stream, parts = f"{player}/real", self.parts
        images, places = None, self._places(stream, step)
        if parts.ahead is not None:
            images = parts.ahead.images(stream, step, lambda step: self._places(stream, step))
            if parts.dataset.pages is not None:
                parts.dataset.pages.was_read()
        return self._as_seen(places, stream, step, count=self.config.batch_size, images=images)

    def _places(self, stream: str, step: int) -> Int64[Tensor, " shard"]:
        config, train = self.config, self.parts.train

        def places(step: int) -> Int64[Tensor, " shard"]:
            return train.index_select(
                0, sampling.batch_indices(config.seed, stream, step, batch_size=config.batch_size, dataset_size=len(train))
            )

        return self._drawn(stream, step, places, numbers=config.batch_size)

    def latents(self, step: int) -> Batch:
        """Latents of a generator step; where classes matter, their labels follow the data's own frequencies."""
        config, parts = self.config, self.parts
        labels = None
        if config.network.conditional and parts.dataset.labels is not None:
            labels = to_device(parts.dataset.labels[self._places("g/labels", step)], parts.device)
        return Batch(self.z("g", step), labels)

    def z(self, player: str, step: int) -> Float[Tensor, "shard z_dim"]:
        """The z of a player's step."""
        config, stream = self.config, f"{player}/z"

        def latents(step: int) -> Float[Tensor, "shard z_dim"]:
            return sampling.latents(config.seed, stream, step, batch_size=config.batch_size, z_dim=config.network.z_dim)

        return self._placed(self._drawn(stream, step, latents, numbers=config.batch_size * config.network.z_dim))

    def penalty_draws(self, step: int) -> Float[Tensor, "decisions draws"] | None:
        """Uniform numbers for the penalties of a discriminator step; None where they need none."""
        config, parts = self.config, self.parts
        return self._uniforms("d/penalty", step, config.batch_size // config.network.packing, parts.draws) if parts.draws else None

    def to_diagnose(self, step: int) -> tuple[Batch, Batch | None, Batch]:
        """Training images, held-out images if there are any, and latents, drawn for a look after discriminator step `step`."""
        config, parts = self.config, self.parts
        count = -(-config.diagnostics.images // config.batch_size) * config.batch_size  # which any number of ranks divides
        real: dict[str, Batch] = {}
        for name, numbers in ((TRAIN, parts.train), (HELD_OUT, parts.held_out)):
            if len(numbers):
                places = sampling.diagnostic_indices(config.seed, name, step, count=count, dataset_size=len(numbers))
                real[name] = self._as_seen(numbers[places], name, step, count=count)
        z = sampling.latents(config.seed, f"{DIAGNOSE}z", step, batch_size=count, z_dim=config.network.z_dim)
        train = real[TRAIN]
        return train, real.get(HELD_OUT), Batch(self._placed(z), train.labels)

    def _as_seen(self, indices: Int64[Tensor, " images"], stream: str, step: int, *, count: int, images: Tensor | None = None) -> Batch:
        """Real images, mirrored and augmented as the config says; `count` of them over all ranks. `images` are they as they are kept."""
        config, parts = self.config, self.parts
        images, labels = parts.dataset.batch(indices, parts.device, parts.dtype, labelled=config.network.conditional, images=images)
        if config.augment.mirror:
            coins = self._uniforms(f"{stream}/mirror", step, count, 1)
            images = torch.where(coins[:, :, None, None] < 0.5, images.flip(3), images)
        if parts.game.augmenter is not None:
            numbers = self._uniforms(f"{stream}/augment", step, count, parts.game.augmenter.augmentation.draws)
            images = parts.game.augmenter.real(images, numbers)
        return Batch(images, labels)

    def _uniforms(self, stream: str, step: int, count: int, per_sample: int) -> Float[Tensor, "shard per_sample"]:
        def uniforms(step: int) -> Float[Tensor, "shard per_sample"]:
            return sampling.uniforms(self.config.seed, stream, step, count=count, per_sample=per_sample)

        if stream.startswith(DIAGNOSE):  # the next look is many steps away
            return self._placed(uniforms(step))
        return self._placed(self._drawn(stream, step, uniforms, numbers=count * per_sample))

    def _placed(self, numbers: Float[Tensor, "shard _"]) -> Float[Tensor, "shard _"]:
        return to_device(numbers, self.parts.device).to(self.parts.dtype)
