"""What the theory says should be true, measured: the value of the game and the divergence it bounds, on images the discriminator
trains on and on held-out ones, slopes, saturation, collapse; and alarms on them.

One pass over a few images at each report. Buffers such as batch-norm statistics are put back, so training is the same without it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gan_core.datatypes import Batch
from gan_core.distributed import mean_over_ranks
from gan_core.game import Game, Player
from gan_core.judging import Logits, caught_features
from gan_core.steps import fakes, judged_rightly, pack

SATURATED = 0.01  # a fake that is seen through and whose loss has a smaller slope than this, by its logit, teaches nothing


def measure(d: Player, g: Player, game: Game, *, train: Batch, held_out: Batch | None, latents: Batch) -> dict[str, float]:
    """Everything below, as means over the images and over the ranks, which all call it together with equally many images.

    * `d/value_train`, `d/value_held_out`, `d/value_gap`: minus the discriminator's loss, without penalties; for the logistic game it is
      V(G, D) of 1406.2661, eq. 1, between -log 4 (D = 1/2) and 0. The gap is the discriminator's overfitting.
    * `d/bound_train`, `d/bound_held_out`: that value as a lower bound of the loss's divergence (`AdversarialLoss.bound`).
    * `d/accuracy_train`, `d/accuracy_held_out`: the share of those reals judged to be real.
    * `d/image_gradient_real`, `d/image_gradient_fake`: the mean of |grad_x D(x)|, x being real or fake.
    * `g/saturated_share`: the share of fakes that are judged to be fakes and whose generator loss has a slope below SATURATED by their
      logit.
    * `g/feature_variance_ratio`: the summed variance of the discriminator's features over fakes, divided by that over reals.
    """
    with untouched(d.network), untouched(g.network):
        with torch.no_grad(), game.autocast():
            train, fake = pack(train, game.packing), fakes(g.network, latents, game)
            with caught_features(d.network) as caught:
                logits = game.judge.logits(d.network, train, fake)
            spread = torch.stack([_variance(features) for features in caught[:2]]) if caught else None
            other = None if held_out is None else game.judge.logits(d.network, pack(held_out, game.packing), fake)
        means = _values("train", logits, game)
        if other is not None:
            means |= _values("held_out", other, game)
        means |= _slopes(d.network, train, fake, game)
    means["g/saturated_share"] = _saturated_share(logits, game)
    table = mean_over_ranks(torch.stack([value.double() for value in means.values()])).tolist()
    found = dict(zip(means, table, strict=True))
    fake_variance, real_variance = (0.0, 0.0) if spread is None else spread.tolist()
    if real_variance > 0.0:  # a discriminator whose units are all dead says nothing of the generator
        found["g/feature_variance_ratio"] = fake_variance / real_variance
    bound = game.loss.bound
    for name in ("train", "held_out"):
        if f"d/value_{name}" in found:
            found[f"d/bound_{name}"] = bound.offset + bound.scale * found[f"d/value_{name}"]
    if "d/value_held_out" in found:
        found["d/value_gap"] = found["d/value_train"] - found["d/value_held_out"]
    return found


class Thresholds(NamedTuple):
    """Where alarms go off, None for never; `patience` reports in a row have to agree."""

    collapse: float | None
    saturation: float | None
    overfitting: float | None
    divergence: float | None
    patience: int


class Alarms:
    """Says when a run shows one of the known failures; its counts are part of a checkpoint."""

    NAMES = ("collapse", "saturation", "overfitting", "divergence")

    def __init__(self, thresholds: Thresholds) -> None:
        self.thresholds = thresholds
        self.counts = dict.fromkeys(self.NAMES, 0)
        self.ringing: dict[str, str] = {}

    def look(self, metrics: Mapping[str, float]) -> dict[str, str]:
        """The alarms that ring now, each with its reason, after a report's `metrics`; those without a measurement stay silent.

        They are kept in `ringing` until the next look.
        """
        limits = self.thresholds
        self.ringing = {}
        gap = metrics.get("d/accuracy_train", 0.0) - metrics.get("d/accuracy_held_out", metrics.get("d/accuracy_train", 0.0))
        norm = max(
            metrics.get(key, 0.0) for key in ("d/gradient_norm", "d/penalty_gradient_norm", "g/gradient_norm", "g/penalty_gradient_norm")
        )
        ratio = metrics.get("g/feature_variance_ratio", 1.0)
        share = metrics.get("g/saturated_share", 0.0)
        found = {
            "collapse": (limits.collapse is not None and ratio < limits.collapse, f"feature variance ratio {ratio:.3g}", "below"),
            "saturation": (limits.saturation is not None and share > limits.saturation, f"saturated share of fakes {share:.3g}", "above"),
            "overfitting": (limits.overfitting is not None and gap > limits.overfitting, f"accuracy gap to held-out {gap:.3g}", "above"),
            "divergence": (limits.divergence is not None and norm > limits.divergence, f"gradient norm {norm:.3g}", "above"),
        }
        for name, (bad, what, side) in found.items():
            self.counts[name] = self.counts[name] + 1 if bad else 0
            if self.counts[name] >= limits.patience:
                self.ringing[name] = f"{what} is {side} {getattr(limits, name)} for {self.counts[name]} reports"
        return self.ringing

    def state_dict(self) -> dict[str, Any]:
        """How many reports in a row each condition has held, and the alarms that ring."""
        return {"counts": dict(self.counts), "ringing": dict(self.ringing)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`."""
        self.counts = {name: int(state["counts"][name]) for name in self.NAMES}
        self.ringing = dict(state["ringing"])


def _values(name: str, logits: Logits, game: Game) -> dict[str, Float[Tensor, ""]]:
    return {
        f"d/value_{name}": -game.loss.discriminator(*logits).mean(),
        f"d/accuracy_{name}": judged_rightly(logits, game.loss)[0],
    }


def _slopes(network: nn.Module, real: Batch, fake: Batch, game: Game) -> dict[str, Float[Tensor, ""]]:
    """|grad_x D(x)|, the norm being over all of an image."""
    critic, found = game.judge.critic(network, real, fake), {}
    for name, side in (("real", real), ("fake", fake)):
        images = side.inputs.detach().requires_grad_()
        with game.autocast():
            (slope,) = torch.autograd.grad(critic(images, side.labels).float().sum(), images)
        found[f"d/image_gradient_{name}"] = slope.flatten(1).norm(dim=1).mean()
    return found


def _saturated_share(logits: Logits, game: Game) -> Float[Tensor, ""]:
    fake_logits = logits.fake.detach().requires_grad_()
    real_logits = logits.real.detach()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(game.generator_loss(real_logits, fake_logits).sum(), fake_logits)
    against = real_logits if game.loss.threshold is None else game.loss.threshold
    return ((slope.abs() < SATURATED) & (logits.fake < against)).to(slope.dtype).mean()


def _variance(features: Float[Tensor, "images features"]) -> Float[Tensor, ""]:
    """The sum of the features' variances over the images of all ranks."""
    features = features.double()
    moments = mean_over_ranks(torch.stack([features.mean(0), features.square().mean(0)]))
    return (moments[1] - moments[0].square()).clamp(min=0.0).sum()


@contextmanager
def untouched(network: nn.Module) -> Iterator[None]:
    """Leaves the buffers and the parameters' `requires_grad` as they were; no work goes into gradients of parameters meanwhile."""
    wanted = [parameter for parameter in network.parameters() if parameter.requires_grad]
    network.requires_grad_(False)
    try:
        with same_buffers(network):
            yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)


@contextmanager
def same_buffers(network: nn.Module) -> Iterator[None]:
    """Leaves the buffers as they were."""
    buffers = list(network.buffers())
    kept = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, old in zip(buffers, kept, strict=True):
                buffer.copy_(old)
