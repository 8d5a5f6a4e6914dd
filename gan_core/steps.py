"""How the two players take a step: the algorithm of 1406.2661 on one screen, with plain arguments and no waiting for the device."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from gan_core.datatypes import Batch
from gan_core.distributed import average_over_ranks
from gan_core.losses import AdversarialLoss

Stats = dict[str, Float[Tensor, ""]]


class Player(NamedTuple):
    """A network with its optimizer; `clip_norm` bounds the norm of its whole gradient.

    `parameters` and `buffers` (the floating-point ones) are listed once: walking the modules at each step costs 3 % of a small one.
    """

    network: nn.Module
    parameters: list[nn.Parameter]
    buffers: list[Tensor]
    optimizer: torch.optim.Optimizer
    clip_norm: float | None


class Game(NamedTuple):
    """The loss, the precision of forward passes, and into how many parts a rank's batch is divided to save memory."""

    loss: AdversarialLoss
    autocast: Callable[[], torch.autocast]
    accumulation_steps: int


def discriminator_step(d: Player, g: Player, real: Batch, latents: Batch, game: Game) -> Stats:
    """One optimizer step of the discriminator on `real` images and on fakes made from `latents`.

    Returns 0-d tensors on the device: `d/loss`, the mean logits, the share of each side judged rightly, and the gradient norm
    (after averaging over ranks, before clipping).
    """
    d.optimizer.zero_grad(set_to_none=True)
    parts: list[Stats] = []
    for real_part, latent_part in zip(_parts(real, game), _parts(latents, game), strict=True):
        with game.autocast():
            with torch.no_grad():
                fake_images = g.network(latent_part.inputs, latent_part.labels)
            real_logits = _full_precision(d.network(real_part.inputs, real_part.labels))
            fake_logits = _full_precision(d.network(fake_images, latent_part.labels))
        loss = game.loss.discriminator(real_logits, fake_logits).mean()
        (loss / game.accumulation_steps).backward()
        parts.append(_judgement(loss.detach(), real_logits.detach(), fake_logits.detach()))
    return {**_mean(parts), "d/gradient_norm": _apply_gradients(d, opponent=g)}


def generator_step(g: Player, d: Player, real: Batch | None, latents: Batch, game: Game) -> Stats:
    """One optimizer step of the generator; `real` is needed, and used, only by losses that compare the two sides.

    The discriminator's parameters are out of the graph meanwhile, so that no work goes into gradients nobody uses.

    Returns 0-d tensors on the device: `g/loss` and `g/gradient_norm`.
    """
    g.optimizer.zero_grad(set_to_none=True)
    _require_gradients(d, needed=False)
    parts: list[Stats] = []
    reals = [None] * game.accumulation_steps if real is None else _parts(real, game)
    for real_part, latent_part in zip(reals, _parts(latents, game), strict=True):
        with game.autocast():
            fake_images = g.network(latent_part.inputs, latent_part.labels)
            fake_logits = _full_precision(d.network(fake_images, latent_part.labels))
            if real_part is None:
                real_logits = torch.full_like(fake_logits, torch.nan, requires_grad=False)
            else:
                with torch.no_grad():
                    real_logits = _full_precision(d.network(real_part.inputs, real_part.labels))
        loss = game.loss.generator(real_logits, fake_logits).mean()
        (loss / game.accumulation_steps).backward()
        parts.append({"g/loss": loss.detach()})
    _require_gradients(d, needed=True)
    return {**_mean(parts), "g/gradient_norm": _apply_gradients(g, opponent=d)}


def _parts(batch: Batch, game: Game) -> list[Batch]:
    return batch.split(len(batch.inputs) // game.accumulation_steps)


def _require_gradients(player: Player, *, needed: bool) -> None:
    for parameter in player.parameters:
        parameter.requires_grad_(needed)


def _full_precision(logits: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Losses are taken in at least float32: bfloat16 has 8 bits for a logit."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _judgement(loss: Tensor, real_logits: Tensor, fake_logits: Tensor) -> Stats:
    return {
        "d/loss": loss,
        "d/real_logits": real_logits.mean(),
        "d/fake_logits": fake_logits.mean(),
        "d/accuracy_real": (real_logits > 0).to(loss.dtype).mean(),
        "d/accuracy_fake": (fake_logits < 0).to(loss.dtype).mean(),
    }


def _apply_gradients(player: Player, *, opponent: Player) -> Tensor:
    """Average the gradients over the ranks, clip, step; returns the norm before clipping.

    Both players ran forward on this rank's part of the batch, so the batch-norm statistics of both have to be averaged too.
    """
    average_over_ranks(player.parameters, player.buffers + opponent.buffers)
    norm = get_total_norm([parameter.grad for parameter in player.parameters if parameter.grad is not None])
    if player.clip_norm is not None:
        clip_grads_with_norm_(player.parameters, player.clip_norm, norm)
    player.optimizer.step()
    return norm


def _mean(parts: list[Stats]) -> Stats:
    if len(parts) == 1:
        return parts[0]
    return {key: torch.stack([part[key] for part in parts]).mean() for key in parts[0]}
