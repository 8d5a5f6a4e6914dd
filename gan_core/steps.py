"""How the two players take a step: the algorithm of 1406.2661 on one screen, with plain arguments and no waiting for the device."""

from collections.abc import Callable
from contextlib import AbstractContextManager
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
    """A network with its optimizer; `clip_norm` bounds the norm of its whole gradient."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    clip_norm: float | None


class Game(NamedTuple):
    """The loss, the precision of forward passes, and into how many parts a rank's batch is divided to save memory."""

    loss: AdversarialLoss
    autocast: Callable[[], AbstractContextManager[None]]
    accumulation_steps: int


def discriminator_step(generator: nn.Module, player: Player, real: Batch, latents: Batch, game: Game) -> Stats:
    """One optimizer step of the discriminator on `real` images and on fakes made from `latents`.

    Returns 0-d tensors on the device: `d/loss`, the mean logits, the share of each side judged rightly, and the gradient norm
    (after averaging over ranks, before clipping).
    """
    player.optimizer.zero_grad(set_to_none=True)
    parts: list[Stats] = []
    for real_part, latent_part in _parts(real, latents, game):
        with game.autocast():
            with torch.no_grad():
                fake_images = generator(latent_part.inputs, latent_part.labels)
            real_logits = _full_precision(player.network(real_part.inputs, real_part.labels))
            fake_logits = _full_precision(player.network(fake_images, latent_part.labels))
        loss = game.loss.discriminator(real_logits, fake_logits).mean()
        (loss / game.accumulation_steps).backward()
        parts.append(_judgement(loss.detach(), real_logits.detach(), fake_logits.detach()))
    norm = _apply_gradients(player)
    return {**_mean(parts), "d/gradient_norm": norm}


def generator_step(discriminator: nn.Module, player: Player, real: Batch | None, latents: Batch, game: Game) -> Stats:
    """One optimizer step of the generator; `real` is needed, and used, only by losses that compare the two sides.

    The discriminator's parameters are out of the graph meanwhile, so that no work goes into gradients nobody uses.

    Returns 0-d tensors on the device: `g/loss` and `g/gradient_norm`.
    """
    player.optimizer.zero_grad(set_to_none=True)
    discriminator.requires_grad_(False)
    parts: list[Stats] = []
    for real_part, latent_part in _parts(real, latents, game):
        with game.autocast():
            fake_images = player.network(latent_part.inputs, latent_part.labels)
            fake_logits = _full_precision(discriminator(fake_images, latent_part.labels))
            if real_part is None:
                real_logits = torch.full_like(fake_logits, torch.nan, requires_grad=False)
            else:
                with torch.no_grad():
                    real_logits = _full_precision(discriminator(real_part.inputs, real_part.labels))
        loss = game.loss.generator(real_logits, fake_logits).mean()
        (loss / game.accumulation_steps).backward()
        parts.append({"g/loss": loss.detach()})
    discriminator.requires_grad_(True)
    norm = _apply_gradients(player)
    return {**_mean(parts), "g/gradient_norm": norm}


def _parts(real: Batch | None, latents: Batch, game: Game) -> list[tuple[Batch | None, Batch]]:
    size = len(latents.inputs) // game.accumulation_steps
    reals = [None] * game.accumulation_steps if real is None else real.split(size)
    return list(zip(reals, latents.split(size), strict=True))


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


def _apply_gradients(player: Player) -> Tensor:
    """Average the gradients over the ranks, clip, step; returns the norm before clipping."""
    average_over_ranks(player.network)
    parameters = [parameter for parameter in player.network.parameters() if parameter.grad is not None]
    norm = get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    if player.clip_norm is not None:
        clip_grads_with_norm_(parameters, player.clip_norm, norm)
    player.optimizer.step()
    return norm


def _mean(parts: list[Stats]) -> Stats:
    if len(parts) == 1:
        return parts[0]
    return {key: torch.stack([part[key] for part in parts]).mean() for key in parts[0]}
