"""The players' networks through torch.compile, taken only where they compute what they computed before."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from gan_core import distributed, micro_batch
from gan_core.building import Parts, resolved_precision
from gan_core.config import GanConfig
from gan_core.datatypes import Batch
from gan_core.diagnostics import same_buffers
from gan_core.game import Player
from gan_core.steps import fakes
from gan_core.supply import Supply

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 5e-2}  # of each tensor's norm


def compiled(config: GanConfig, parts: Parts) -> Parts:
    """The parts with compiled networks, after their outputs and gradients for a batch were compared with those of the networks.

    Raises:
        ValueError: a network cannot be compiled; or what comes of it differs, and by how much.
    """
    if parts.draws_noise:
        raise ValueError("speed.compile: the network draws noise (dropout), of which compiled code draws other numbers; set it to false")
    if parts.game.loss.on_witness:
        raise ValueError(f"speed.compile: the loss '{config.loss.name}' reads features inside the discriminator; set it to false")
    precision = torch.bfloat16 if resolved_precision(config, parts.device) == "bfloat16" else parts.dtype
    supply = Supply(config, parts)
    real, z = supply.real("d", 0), supply.z("d", 0)
    latents = Batch(z, real.labels).split(micro_batch.size(config, parts.game.accumulation_steps, distributed.world_size()))[0]
    why, g, d = "", parts.g, parts.d
    try:
        g = _compiled(parts.g, latents, parts.game.autocast, "generator", TOLERANCE[precision])
        with torch.no_grad(), same_buffers(parts.g.network):
            shown = fakes(parts.g.network, latents, parts.game)
        d = _compiled(parts.d, shown, parts.game.autocast, "discriminator", TOLERANCE[precision])
    except ValueError as error:
        why = str(error)
    if distributed.any_rank(bool(why), parts.device):
        raise ValueError(why or "speed.compile: another rank could not take what was compiled; set it to false")
    return parts._replace(g=g, d=d)


def _compiled(player: Player, inputs: Batch, autocast: Callable[[], AbstractContextManager[object]], name: str, tolerance: float) -> Player:
    call = torch.compile(player.network, dynamic=False)
    assert isinstance(call, nn.Module)
    expected = _outcome(player.network, player, inputs, autocast)
    try:
        found = _outcome(call, player, inputs, autocast)
    except Exception as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise ValueError(f"speed.compile: the {name} cannot be compiled here: {lines[0] if lines else type(error).__name__}") from error
    worst, where = max((_difference(*pair), index) for index, pair in enumerate(zip(found, expected, strict=True)))
    if not worst <= tolerance:
        what = "its outputs" if where == 0 else f"the gradient of its parameter {where - 1}"
        raise ValueError(
            f"speed.compile: the compiled {name} differs from the {name}: {what} by {worst:.2g} of their size, allowed "
            f"{tolerance:g}; set it to false"
        )
    return player._replace(compiled=call)


def _outcome(call: nn.Module, player: Player, inputs: Batch, autocast: Callable[[], AbstractContextManager[object]]) -> list[Tensor]:
    """Outputs, then the gradient of the sum of their squares for each parameter; nothing of the network is changed."""
    with same_buffers(player.network), torch.enable_grad():
        with autocast():
            outputs = call(inputs.inputs, inputs.labels)
        gradients = torch.autograd.grad(outputs.square().sum(), player.parameters, allow_unused=True)
    return [outputs.detach(), *(torch.zeros_like(p) if g is None else g for p, g in zip(player.parameters, gradients, strict=True))]


def _difference(found: Tensor, expected: Tensor) -> float:
    size = torch.linalg.vector_norm(expected.double())
    difference = torch.linalg.vector_norm(found.double() - expected.double())
    share = float(difference / size) if size > 0.0 else float(difference)
    return share if math.isfinite(share) else math.inf
