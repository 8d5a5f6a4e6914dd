"""From the discriminator's outputs to the logits that a loss reads: one way for each kind of loss, chosen while building."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gan_core.datatypes import Batch
from gan_core.distributed import gather_with_gradient
from gan_core.two_sample import witness, witness_at

Critic = Callable[[Tensor, Tensor | None], Tensor]


class Logits(NamedTuple):
    """What a loss reads, [batch] each; `real` is NaN where there are no real images."""

    real: Float[Tensor, " batch"]
    fake: Float[Tensor, " batch"]


class Judge(NamedTuple):
    """`logits(discriminator, real, fake)` for the loss; `critic(discriminator, real, fake)` is what penalties see.

    `taught` are the same logits as `logits` where both sides teach the discriminator: they may be made in one pass.
    """

    logits: Callable[[nn.Module, Batch | None, Batch], Logits]
    critic: Callable[[nn.Module, Batch, Batch], Critic]
    taught: Callable[[nn.Module, Batch, Batch], Logits]


def own_logits(discriminator: nn.Module, real: Batch | None, fake: Batch) -> Logits:
    """The discriminator's own, for this rank's images."""
    fake_logits = _full_precision(discriminator(fake.inputs, fake.labels))
    if real is None:
        return Logits(torch.full_like(fake_logits, torch.nan, requires_grad=False), fake_logits)
    return Logits(_full_precision(discriminator(real.inputs, real.labels)), fake_logits)


def logits_in_one_pass(discriminator: nn.Module, real: Batch, fake: Batch) -> Logits:
    """`own_logits` of a discriminator that judges each image by itself, of fakes and reals as one batch: half as many calls."""
    labels = None if fake.labels is None or real.labels is None else torch.cat([fake.labels, real.labels])
    both = _full_precision(discriminator(torch.cat([fake.inputs, real.inputs]), labels))
    fake_logits, real_logits = both.split([len(fake.inputs), len(real.inputs)])  # one node backwards, where two slices pad and add
    return Logits(real_logits, fake_logits)


def logits_of_all_ranks(discriminator: nn.Module, real: Batch | None, fake: Batch) -> Logits:
    """The discriminator's own, gathered from all ranks: for losses that take means over the whole batch."""
    return Logits(*(gather_with_gradient(logits) for logits in own_logits(discriminator, real, fake)))


class KnownLogits:
    """A critic that has judged some images already, and gives those logits again, in the graph that they have."""

    def __init__(self, critic: Critic, known: list[tuple[Tensor, Tensor]]) -> None:
        self._critic, self._known = critic, known

    def __call__(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """The logits of `images`; the known ones were asked for with the same labels."""
        for judged, logits in self._known:
            if judged is images:
                return logits
        return self._critic(images, labels)


def witness_logits(discriminator: nn.Module, real: Batch | None, fake: Batch) -> Logits:
    """The kernel witness of the discriminator's features, over the whole batch from all ranks."""
    assert real is not None, "the loss says generator_reads_real"
    return Logits(*witness(*_features_of_all_ranks(discriminator, real, fake)))


def discriminator_itself(discriminator: nn.Module, real: Batch, fake: Batch) -> Critic:
    """The discriminator."""
    return discriminator


@torch.no_grad()
def witness_critic(discriminator: nn.Module, real: Batch, fake: Batch) -> Critic:
    """The witness against the features of this batch, which are held fixed."""
    real_features, fake_features = _features_of_all_ranks(discriminator, real, fake)

    def critic(images: Tensor, labels: Tensor | None) -> Tensor:
        return witness_at(_full_precision(features(discriminator, images, labels)), real_features, fake_features)

    return critic


def _features_of_all_ranks(discriminator: nn.Module, real: Batch, fake: Batch) -> tuple[Tensor, Tensor]:
    """Of reals and of fakes; the fakes run first, as in `own_logits`."""
    fake_features, real_features = (_full_precision(features(discriminator, side.inputs, side.labels)) for side in (fake, real))
    return gather_with_gradient(real_features), gather_with_gradient(fake_features)


EACH = Judge(own_logits, discriminator_itself, own_logits)
EACH_IN_ONE_PASS = Judge(own_logits, discriminator_itself, logits_in_one_pass)
ACROSS_RANKS = Judge(logits_of_all_ranks, discriminator_itself, logits_of_all_ranks)
WITNESS = Judge(witness_logits, witness_critic, witness_logits)


def features(discriminator: nn.Module, images: Tensor, labels: Tensor | None) -> Float[Tensor, "batch features"]:
    """What enters the discriminator's last layer, its submodule `logit`, flattened."""
    with caught_features(discriminator) as caught:
        discriminator(images, labels)
    return caught[0]


@contextmanager
def caught_features(discriminator: nn.Module) -> Iterator[list[Tensor]]:
    """A list that fills, in the order of forward passes, with what enters the submodule `logit`; it stays empty where there is none."""
    caught: list[Tensor] = []
    last = dict(discriminator.named_children()).get("logit")
    if last is None:
        yield caught
        return
    handle = last.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0].flatten(1)))
    try:
        yield caught
    finally:
        handle.remove()


def _full_precision(outputs: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Losses are taken in at least float32: bfloat16 has 8 bits for a logit."""
    return outputs.to(torch.promote_types(outputs.dtype, torch.float32))
