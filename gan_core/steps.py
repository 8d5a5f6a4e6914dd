"""How the two players take a step: the algorithm of 1406.2661 on one screen, with plain arguments and no waiting for the device."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_

from gan_core import path_length
from gan_core.datatypes import Batch
from gan_core.distributed import average_over_ranks
from gan_core.game import Game, Part, Penalty, Player, Stats
from gan_core.judging import Critic, KnownLogits, Logits, own_logits
from gan_core.losses import AdversarialLoss
from gan_core.path_length import PathLength
from gan_core.regularizers import ANCHOR_DECAY, Given


def discriminator_step(
    d: Player,
    g: Player,
    real: Batch,
    latents: Batch,
    game: Game,
    *,
    step: int,
    draws: Float[Tensor, "decisions draws"] | None = None,
    fake: Batch | None = None,
) -> Stats:
    """One optimizer step of the discriminator on `real` images and on fakes made from `latents`.

    `step` counts the discriminator's steps before this one, and `draws` holds the uniform numbers of the penalties. Those that
    are lazy and due at this step take a step of their own after it, with their interval as a gain (1912.04958, appendix B). `fake` are
    `fakes` of these latents, where there are any already.

    Returns 0-d tensors on the device: `d/loss`, `d/penalty/<name>` unweighted, the mean logits, the share of each side judged rightly,
    and the gradient norm (after averaging over ranks, before clipping); that of a lazy step is `d/penalty_gradient_norm`.
    """
    every_step = [penalty for penalty in game.penalties if penalty.interval == 1]
    lazy = [penalty for penalty in game.penalties if penalty.interval > 1 and step % penalty.interval == 0]
    _begin(d, backwards=game.accumulation_steps)
    shares: list[Stats] = []
    # All fakes first: accumulation saves the memory of graphs, and these have none.
    with torch.no_grad():
        parts = [
            Part(reals, uniforms, fakes(g.call, z, game) if fake is None else fake._replace(inputs=fake.inputs.detach()))
            for reals, uniforms, z in _divided(real, latents, draws, game)
        ]
    for part in parts:
        leaves, logits, critic = _judged(d, part, game)
        loss = game.loss.discriminator(*logits).mean()
        penalty, values = _penalty(d, every_step, leaves, game, critic)
        _backward(loss if penalty is None else loss + penalty, game, d.parameters if game.one_graph else None)
        shares.append({**_judgement(loss.detach(), logits, game), **values})
    stats = _mean(shares)
    if game.anchors is not None:
        game.anchors.lerp_(torch.stack([stats["d/real_logits"], stats["d/fake_logits"]]), 1.0 - ANCHOR_DECAY)
    if game.augmenter is not None:
        game.augmenter.observe(stats["d/accuracy_real"])
    # Batch norm's backward reads statistics: those of a graph that is kept stay until the generator's step.
    stats["d/gradient_norm"] = _apply_gradients(d, opponent=g if fake is None else None, game=game)
    if game.augmenter is not None:
        game.augmenter.adjust(step)
    if lazy:
        stats |= _lazy_step(d, g, parts, lazy, game)
    return stats


def generator_step(g: Player, d: Player, real: Batch | None, latents: Batch, game: Game, *, step: int, fake: Batch | None = None) -> Stats:
    """One optimizer step of the generator; `real` is needed, and used, only by losses that compare the two sides.

    `step` counts the generator's steps before this one. The discriminator's parameters are out of the graph meanwhile, so that no work
    goes into gradients nobody uses. `fake` are `fakes` of these latents with their graph, where there are any already. A lazy path length
    penalty that is due takes a step of its own, as those of the discriminator do.

    Returns 0-d tensors on the device: `g/loss`, `g/gradient_norm`, and of the path length `g/penalty/path_length` unweighted,
    `g/path_length` and that step's own `g/penalty_gradient_norm`.
    """
    with_path = game.path is not None and game.path.interval == 1
    _begin(g, backwards=game.accumulation_steps * (2 if with_path else 1))
    _require_gradients(d, needed=False)
    shares: list[Stats] = []
    parts = list(_divided(real, latents, None, game))
    for real_part, _, latent_part in parts:
        fake_part = fakes(g.call, latent_part, game) if fake is None else fake
        with game.autocast():
            logits = game.judge.logits(d.call, real_part, fake_part)
        loss = game.generator_loss(*logits).mean()
        _backward(loss, game)
        shares.append({"g/loss": loss.detach()})
    _require_gradients(d, needed=True)
    stats = _mean(shares)
    if game.path is None or step % game.path.interval:
        return {**stats, "g/gradient_norm": _apply_gradients(g, opponent=d, game=game)}
    if game.path.interval > 1:
        stats["g/gradient_norm"] = _apply_gradients(g, opponent=d, game=game)
        _begin(g, backwards=game.accumulation_steps)
    stats |= _path_gradients(g, [latent_part for *_, latent_part in parts], game, game.path)
    norm = _apply_gradients(g, opponent=d, game=game)
    return {**stats, "g/gradient_norm" if game.path.interval == 1 else "g/penalty_gradient_norm": norm}


def _path_gradients(g: Player, parts: list[Batch], game: Game, path: PathLength) -> Stats:
    """Add the gradients of the path length penalty, and move its running mean. Outside autocast."""
    shares: list[Stats] = []
    for part in parts:
        lengths = path_length.path_lengths(g.network, part)
        value = path_length.penalty(lengths, path)
        _backward(path.weight * path.interval * value, game)
        shares.append({"g/penalty/path_length": value.detach(), "g/path_length": lengths.detach().mean()})
    stats = _mean(shares)
    path.mean.lerp_(stats["g/path_length"], 1.0 - path_length.DECAY)
    return stats


def _lazy_step(d: Player, g: Player, parts: list[Part], lazy: list[Penalty], game: Game) -> Stats:
    """The discriminator's step on lazy penalties alone; each counts `interval` times, since it acts once in so many steps."""
    _begin(d, backwards=game.accumulation_steps)
    gained = [penalty._replace(weight=penalty.weight * penalty.interval) for penalty in lazy]
    shares: list[Stats] = []
    for part in parts:
        penalty, values = _penalty(d, gained, part, game)
        assert penalty is not None, "a lazy step is for penalties"
        _backward(penalty, game)
        shares.append(values)
    return {**_mean(shares), "d/penalty_gradient_norm": _apply_gradients(d, opponent=g, game=game)}


def _divided(real: Batch | None, latents: Batch, draws: Tensor | None, game: Game) -> Iterator[tuple[Batch | None, Tensor | None, Batch]]:
    """A rank's batch in equal parts; reals and draws are by decision: packed."""
    count = game.accumulation_steps
    if count == 1:
        yield None if real is None else pack(real, game.packing), draws, latents
        return
    reals: list[Batch | None] = [None] * count
    if real is not None:
        reals = [pack(part, game.packing) for part in real.split(len(real.inputs) // count)]
    draw_parts: list[Tensor | None] = [None] * count if draws is None else list(draws.chunk(count))
    yield from zip(reals, draw_parts, latents.split(len(latents.inputs) // count), strict=True)


def fakes(generator: nn.Module, latents: Batch, game: Game) -> Batch:
    """What the discriminator is to judge of the generator's images for `latents`: augmented and packed."""
    with game.autocast():
        images = generator(latents.inputs, latents.labels)
    if game.augmenter is not None:
        images = game.augmenter.fake(images, latents.inputs)
    return pack(Batch(images, latents.labels), game.packing)


def pack(images: Batch, packing: int) -> Batch:
    """Each `packing` consecutive images as the channels of one: PacGAN (1712.04086, section 3)."""
    if packing == 1:
        return images
    assert images.labels is None, "the config refuses packing with classes"
    batch, channels, height, width = images.inputs.shape
    return Batch(images.inputs.reshape(batch // packing, packing * channels, height, width), None)


def _backward(objective: Tensor, game: Game, parameters: list[nn.Parameter] | None = None) -> None:
    """Add the gradients of a part of the batch: for all leaves of the graph, or for `parameters` alone."""
    (objective if game.accumulation_steps == 1 else objective / game.accumulation_steps).backward(inputs=parameters)


def _judged(d: Player, part: Part, game: Game) -> tuple[Part, Logits, Critic | None]:
    """The part's logits for the loss; in one graph with the penalties, the part as leaves of it and who knows their logits."""
    assert part.real is not None, "the discriminator's step has real images"
    if not game.one_graph:
        with game.autocast():
            return part, game.judge.taught(d.call, part.real, part.fake), None
    real, fake = (side._replace(inputs=side.inputs.detach().requires_grad_()) for side in (part.real, part.fake))
    logits = own_logits(d.network, real, fake)
    critic = KnownLogits(d.network, [(real.inputs, logits.real), (fake.inputs, logits.fake)])
    return part._replace(real=real, fake=fake), logits, critic


def _penalty(d: Player, penalties: list[Penalty], part: Part, game: Game, critic: Critic | None = None) -> tuple[Tensor | None, Stats]:
    """The weighted sum, None of none, and each penalty's own mean for the report. Outside autocast. `critic` knows the part's logits."""
    if not penalties:
        return None, {}
    real, fake = part.real, part.fake
    assert real is not None, "the discriminator's step has real images"
    values: Stats = {}
    total: Tensor | None = None
    judge = critic or game.judge.critic(d.network, real, fake)
    for penalty in penalties:
        count = penalty.regularizer.draws(real.inputs.shape[1:])
        uniforms = None if part.draws is None or count == 0 else part.draws[:, penalty.first_draw : penalty.first_draw + count]
        given = Given(fake.labels, uniforms, game.anchors, judged=critic is not None)
        value = penalty.regularizer(judge, real.inputs, fake.inputs.to(real.inputs.dtype), real.labels, given).mean()
        total = penalty.weight * value if total is None else total + penalty.weight * value
        values[f"d/penalty/{penalty.name}"] = value.detach()
    return total, values


def _begin(player: Player, *, backwards: int) -> None:
    """Clear the gradients for a step that calls `backward` so many times."""
    for parameter in player.parameters:  # as zero_grad, without its hooks for profilers, which take 5 % of a small step
        parameter.grad = None
    if player.reducer is not None:
        player.reducer.expect(backwards)


def _require_gradients(player: Player, *, needed: bool) -> None:
    for parameter in player.parameters:
        parameter.requires_grad_(needed)


def _judgement(loss: Tensor, logits: Logits, game: Game) -> Stats:
    real, fake = logits.real.detach(), logits.fake.detach()
    right_real, right_fake = judged_rightly(logits, game.loss)
    return {
        "d/loss": loss,
        "d/real_logits": real.mean(),
        "d/fake_logits": fake.mean(),
        "d/accuracy_real": right_real,
        "d/accuracy_fake": right_fake,
    }


def judged_rightly(logits: Logits, loss: AdversarialLoss) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """The shares of reals above and of fakes below the loss's threshold; without one, of pairs whose real is above its fake."""
    real, fake = logits.real.detach(), logits.fake.detach()
    above = real > (fake if loss.threshold is None else loss.threshold)
    below = fake < (real if loss.threshold is None else loss.threshold)
    return above.mean(dtype=real.dtype), below.mean(dtype=real.dtype)


def _apply_gradients(player: Player, *, opponent: Player | None, game: Game) -> Tensor:
    """Average the gradients over the ranks, clip, step; returns the norm before clipping.

    Both players ran forward on this rank's part of the batch, so the batch-norm statistics of both have to be averaged too.
    """
    theirs = [] if opponent is None else opponent.buffers
    average_over_ranks(player.parameters, player.buffers + theirs + game.running, player.reducer)
    gradients = [parameter.grad for parameter in player.parameters if parameter.grad is not None]
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    if player.clip_norm is not None:
        clip_grads_with_norm_(player.parameters, player.clip_norm, norm)
    player.optimizer.step()
    if player.clip_weight is not None:
        with torch.no_grad():
            for parameter in player.parameters:
                parameter.clamp_(-player.clip_weight, player.clip_weight)
    return norm


def _mean(parts: list[Stats]) -> Stats:
    if len(parts) == 1:
        return parts[0]
    return {key: torch.stack([part[key] for part in parts]).mean() for key in parts[0]}
