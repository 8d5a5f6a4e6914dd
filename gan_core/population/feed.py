"""What the steps of many members are fed with: for each the same bits as gan_core/supply.py gives it alone, in one batch."""

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from gan_core import sampling
from gan_core.datatypes import Batch, to_device
from gan_core.population.players import Rows
from gan_core.trainer import Trainer

Fill = Callable[..., Tensor]


class Feed:
    """Feeds `trainers`, which have one data set, batch size and z_dim; member by member."""

    def __init__(self, trainers: Sequence[Trainer]) -> None:
        self._trainers = list(trainers)
        self._config, self._parts = trainers[0].config, trainers[0].parts
        self.batch_size = self._config.batch_size
        self._source = torch.Generator()
        # Streams of images or labels: of each member two at a time, at the border of two epochs three.
        self._orders = lru_cache(maxsize=3 * len(trainers))(sampling.epoch_order)

    def real(self, player: str, rows: Rows, steps: Sequence[int]) -> Batch:
        """The real images of a player's steps, one step number for each row."""
        parts, stream = self._parts, f"{player}/real"
        images = parts.dataset.batch(
            self._images(stream, rows, steps), parts.device, parts.dtype, labelled=self._config.network.conditional
        )
        if self._config.augment.mirror:
            coins = self._drawn(torch.rand, f"{stream}/mirror", rows, steps, (self.batch_size, 1))
            images = images._replace(inputs=torch.where(coins[:, :, None, None] < 0.5, images.inputs.flip(3), images.inputs))
        return images

    def latents(self, rows: Rows, steps: Sequence[int]) -> Batch:
        """Latents of generator steps."""
        labels = None
        if self._config.network.conditional and self._parts.dataset.labels is not None:
            labels = to_device(self._parts.dataset.labels[self._images("g/labels", rows, steps)], self._parts.device)
        return Batch(self.z("g", rows, steps), labels)

    def z(self, player: str, rows: Rows, steps: Sequence[int]) -> Float[Tensor, "samples z_dim"]:
        """The z of a player's steps."""
        return self._drawn(torch.randn, f"{player}/z", rows, steps, (self.batch_size, self._config.network.z_dim))

    def penalty_draws(self, rows: Rows, steps: Sequence[int], per_decision: int) -> Float[Tensor, "decisions draws"]:
        """Uniform numbers for the penalties of discriminator steps, of members that need so many for each decision."""
        return self._drawn(torch.rand, "d/penalty", rows, steps, (self.batch_size // self._config.network.packing, per_decision))

    def _images(self, stream: str, rows: Rows, steps: Sequence[int]) -> Int64[Tensor, " samples"]:
        size, count = len(self._parts.train), self.batch_size
        places = [
            sampling.batch_indices(
                self._trainers[number].config.seed, stream, step, batch_size=count, dataset_size=size, orders=self._orders
            )
            for number, step in zip(rows.numbers, steps, strict=True)
        ]
        return self._parts.train[torch.cat(places)]

    def _drawn(self, fill: Fill, stream: str, rows: Rows, steps: Sequence[int], shape: tuple[int, int]) -> Float[Tensor, "samples width"]:
        """What `sampling.latents` and `sampling.uniforms` draw of that shape for each member, in one tensor."""
        numbers = torch.empty(len(rows.numbers), *shape)
        for number, step, out in zip(rows.numbers, steps, numbers.unbind(), strict=True):
            source = self._source.manual_seed(sampling.derive_seed(self._trainers[number].config.seed, stream, step))
            fill(*shape, generator=source, out=out)
        return to_device(numbers.flatten(0, 1), self._parts.device).to(self._parts.dtype)
