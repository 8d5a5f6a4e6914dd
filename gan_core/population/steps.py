"""The steps of gan_core/steps.py for many members at once, each with its own loss and penalties.

Images are [members * batch, ...], logits [members, decisions], statistics [members]. For each member's weights, the sum of all members'
losses has the gradient of its own.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from gan_core.datatypes import Batch
from gan_core.losses import LossFunction
from gan_core.population.optimizer import StackedAdam
from gan_core.population.players import Network, Rows, StackedPlayer
from gan_core.regularizers import Given, Regularizer
from gan_core.steps import pack

Logits = Float[Tensor, "members decisions"]
Columns = dict[str, Float[Tensor, " members"]]
Leaves = tuple[Rows, list[Tensor]]


class Side(NamedTuple):
    """A player with its optimizer."""

    player: StackedPlayer
    adam: StackedAdam


class Losses(NamedTuple):
    """The loss of each of some members. Each function is called once with the logits of its rows, which are places among these members;
    one that looks across a batch has one row. `order` takes the results back to the order of members, None where they are in it.
    """

    groups: tuple[tuple[LossFunction, Rows], ...]
    order: Int64[Tensor, " members"] | None


class Thresholds(NamedTuple):
    """Where each member's discriminator is undecided; where `paired`, at the logit of the other side."""

    values: Float[Tensor, "members 1"]
    paired: Bool[Tensor, "members 1"]


class Fine(NamedTuple):
    """A penalty that some members pay in this step, with a weight for each and the uniform numbers that it needs."""

    name: str
    regularizer: Regularizer
    rows: Rows
    weights: Float[Tensor, " rows"]
    uniforms: Float[Tensor, "decisions draws"] | None


class Late(NamedTuple):
    """The lazy penalties that are due at a step, and the members that pay one."""

    fines: Sequence[Fine]
    rows: Rows


class Rules(NamedTuple):
    """What members have in common. `joint` runs the discriminator once for fakes and reals, where it does not look across a batch."""

    packing: int
    autocast: Callable[[], AbstractContextManager[object]]
    joint: bool


def discriminator_step(
    d: Side,
    g: Side,
    real: Batch,
    latents: Batch,
    rules: Rules,
    *,
    everyone: Rows,
    losses: Losses,
    thresholds: Thresholds,
    fines: Sequence[Fine],
    late: Late | None,
) -> Columns:
    """One optimizer step of every discriminator on its `real` images and fakes made from its `latents`.

    Members that pay lazy penalties take a step on them of its own after it.

    Returns the columns of `gan_core.steps.discriminator_step`; those of a penalty are NaN for members that did not pay it.
    """
    members = len(everyone.numbers)
    with torch.no_grad():
        fake = _fakes(g.player.frozen(everyone), latents, rules)
    real = pack(real, rules.packing)
    leaves = d.player.leaves(everyone)
    real_logits, fake_logits = _both_logits(d.player.network(everyone, leaves), real, fake, members, rules)
    loss = _means(losses, real_logits, fake_logits)
    penalty, fined, columns = _penalty(d.player, fines, real, fake, {})
    _differentiate(d.player, loss.sum() + penalty, [(everyone, leaves), *fined])
    norms = d.adam.step(everyone)
    columns = {**_judgement(loss, real_logits, fake_logits, thresholds), **columns, "d/gradient_norm": norms}
    return columns if late is None else {**columns, **_lazy_step(d, late, real, fake, columns)}


def generator_step(
    g: Side,
    d: Side,
    real: Batch | None,
    latents: Batch,
    rules: Rules,
    *,
    rows: Rows,
    readers: Rows | None,
    reading: Rows | None,
    losses: Losses,
) -> Columns:
    """One optimizer step of the generators in `rows`; `real` images are those of `readers`, whose losses read them, None without.

    `reading` are the places of the readers among the rows. The discriminators take no gradients. Returns the columns `g/loss` and
    `g/gradient_norm`, [rows].
    """
    leaves = g.player.leaves(rows)
    fake = _fakes(g.player.network(rows, leaves), latents, rules)
    with rules.autocast():
        fake_logits = _table(d.player.frozen(rows)(fake.inputs, fake.labels), len(rows.numbers))
    real_logits = torch.full_like(fake_logits, torch.nan, requires_grad=False)
    if real is not None and readers is not None and reading is not None:
        real = pack(real, rules.packing)
        with torch.no_grad(), rules.autocast():
            real_logits[reading.pick] = _table(d.player.frozen(readers)(real.inputs, real.labels), len(readers.numbers))
    loss = _means(losses, real_logits, fake_logits)
    _differentiate(g.player, loss.sum(), [(rows, leaves)])
    return {"g/loss": loss.detach(), "g/gradient_norm": g.adam.step(rows)}


def _fakes(generator: Network, latents: Batch, rules: Rules) -> Batch:
    with rules.autocast():
        images = generator(latents.inputs, latents.labels)
    return pack(Batch(images, latents.labels), rules.packing)


def _both_logits(network: Network, real: Batch, fake: Batch, members: int, rules: Rules) -> tuple[Logits, Logits]:
    """Of reals and of fakes; the fakes run first."""
    with rules.autocast():
        if not rules.joint:
            fakes = _table(network(fake.inputs, fake.labels), members)
            return _table(network(real.inputs, real.labels), members), fakes
        images = _beside(fake.inputs.to(real.inputs.dtype), real.inputs, members)
        labels = None if fake.labels is None or real.labels is None else _beside(fake.labels, real.labels, members)
        fakes, reals = _table(network(images, labels), members).chunk(2, dim=1)
    return reals, fakes


def _beside(first: Tensor, second: Tensor, members: int) -> Tensor:
    """Each member's part of `first`, then its part of `second`."""
    return torch.cat([first.unflatten(0, (members, -1)), second.unflatten(0, (members, -1))], dim=1).flatten(0, 1)


def _table(logits: Float[Tensor, " samples"], members: int) -> Logits:
    """In at least float32: bfloat16 has 8 bits for a logit."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).view(members, -1)


def _means(losses: Losses, real: Logits, fake: Logits) -> Float[Tensor, " members"]:
    found = [
        function(real[rows.pick].flatten(), fake[rows.pick].flatten()).view(len(rows.numbers), -1).mean(1)
        for function, rows in losses.groups
    ]
    together = torch.cat(found) if len(found) > 1 else found[0]
    return together if losses.order is None else together[losses.order]


def _judgement(loss: Tensor, real: Logits, fake: Logits, thresholds: Thresholds) -> Columns:
    real, fake = real.detach(), fake.detach()
    right_real = real > torch.where(thresholds.paired, fake, thresholds.values)
    right_fake = fake < torch.where(thresholds.paired, real, thresholds.values)
    return {
        "d/loss": loss.detach(),
        "d/real_logits": real.mean(1),
        "d/fake_logits": fake.mean(1),
        "d/accuracy_real": right_real.to(real.dtype).mean(1),
        "d/accuracy_fake": right_fake.to(real.dtype).mean(1),
    }


def _penalty(
    player: StackedPlayer, fines: Sequence[Fine], real: Batch, fake: Batch, before: Columns
) -> tuple[Tensor, list[Leaves], Columns]:
    """The weighted sum over penalties and members, the leaves that it depends on, and each penalty's own means, added to the columns that
    there were `before` of other members. Outside autocast.
    """
    members = len(player.players)
    total = torch.zeros((), device=real.inputs.device)
    found: list[Leaves] = []
    columns: Columns = {}
    for fine in fines:
        leaves = player.leaves(fine.rows)
        reals, fakes = (_of_rows(side, fine.rows, members) for side in (real, fake))
        given = Given(fakes.labels, fine.uniforms, None)
        critic = player.network(fine.rows, leaves)
        value = fine.regularizer(critic, reals.inputs, fakes.inputs.to(reals.inputs.dtype), reals.labels, given)
        means = value.view(len(fine.rows.numbers), -1).mean(1)
        total = total + (fine.weights * means).sum()
        found.append((fine.rows, leaves))
        key = f"d/penalty/{fine.name}"
        if key not in columns:
            columns[key] = before.get(key, means.new_full((members,), torch.nan))
        columns[key][fine.rows.pick] = means.detach()
    return total, found, columns


def _of_rows(images: Batch, rows: Rows, members: int) -> Batch:
    if len(rows.numbers) == members:
        return images
    inputs = images.inputs.unflatten(0, (members, -1))[rows.pick].flatten(0, 1)
    return Batch(inputs, None if images.labels is None else images.labels.view(members, -1)[rows.pick].flatten())


def _lazy_step(d: Side, late: Late, real: Batch, fake: Batch, before: Columns) -> Columns:
    """A step on lazy penalties alone, of the members that pay one."""
    penalty, fined, columns = _penalty(d.player, late.fines, real, fake, before)
    d.player.gradients[late.rows.pick] = 0.0
    _differentiate(d.player, penalty, [(late.rows, []), *fined])
    norms = torch.full_like(before["d/gradient_norm"], torch.nan)
    norms[late.rows.pick] = d.adam.step(late.rows)
    return {**columns, "d/penalty_gradient_norm": norms}


def _differentiate(player: StackedPlayer, total: Float[Tensor, ""], parts: Sequence[Leaves]) -> None:
    """Make the gradients of `total` the members' gradients. The first part has all members concerned; where others have leaves of their
    own, their gradients are added.
    """
    own = list({id(leaves): (rows, leaves) for rows, leaves in parts}.values())
    gradients = iter(torch.autograd.grad(total, [leaf for _, leaves in own for leaf in leaves], allow_unused=True))
    for place, (rows, leaves) in enumerate(own):
        mine = [next(gradients) for _ in leaves]
        if place == 0 and mine:
            player.set_gradients(rows, mine)
        elif mine:
            player.add_gradients(rows, mine)
