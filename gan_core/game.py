"""What steps are about: the two players, what they play for, and what a step tells."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gan_core.augment import Augmenter
from gan_core.datatypes import Batch
from gan_core.distributed import Reducer
from gan_core.judging import Judge
from gan_core.losses import AdversarialLoss, LossFunction
from gan_core.path_length import PathLength
from gan_core.regularizers import Regularizer

Stats = dict[str, Float[Tensor, ""]]


class Player(NamedTuple):
    """A network with its optimizer; `clip_norm` bounds the norm of its whole gradient, `clip_weight` each weight after each step.

    `parameters` and `buffers` (the floating-point ones) are listed once: walking the modules at each step costs 3 % of a small one.
    With a `reducer` gradients travel between ranks during backward, and without one after it. `compiled` is the network as torch.compile
    made it anew, if it was asked to.
    """

    network: nn.Module
    parameters: list[nn.Parameter]
    buffers: list[Tensor]
    optimizer: torch.optim.Optimizer
    clip_norm: float | None
    clip_weight: float | None = None
    reducer: Reducer | None = None
    compiled: nn.Module | None = None

    @property
    def call(self) -> nn.Module:
        """What makes images or logits in training; penalties, which need second derivatives, call the network."""
        return self.network if self.compiled is None else self.compiled


class Penalty(NamedTuple):
    """A regularizer in force: at every `interval`-th step of the discriminator its mean counts `weight` times."""

    name: str
    regularizer: Regularizer
    weight: float
    interval: int
    first_draw: int


class Part(NamedTuple):
    """A share of a rank's batch, by decision: real images, the uniform numbers of the penalties, and fakes without a graph."""

    real: Batch | None
    draws: Float[Tensor, "decisions draws"] | None
    fake: Batch


class Shown(NamedTuple):
    """What the discriminator was shown in a step: reals, latents, and the fakes made of them, with their graph."""

    real: Batch
    latents: Batch
    fake: Batch


class Game(NamedTuple):
    """What is played for.

    `judge` makes the logits that `loss` reads, and `generator_loss` is the generator's side of it. `packing` samples make one
    decision. `anchors` are the running mean logits of real and fake, None where nothing reads them. `autocast` gives the
    precision of forward passes; a rank's batch is divided into `accumulation_steps` parts to save memory. With `augmenter` the
    discriminator sees augmented images only; real ones are augmented before they come here. `path` is the generator's own penalty. With
    `one_graph` the penalties of every step take the logits that the loss has read, and do not judge the same images again.
    """

    loss: AdversarialLoss
    generator_loss: LossFunction
    judge: Judge
    penalties: tuple[Penalty, ...]
    anchors: Float[Tensor, "2"] | None
    packing: int
    autocast: Callable[[], AbstractContextManager[object]]
    accumulation_steps: int
    augmenter: Augmenter | None = None
    path: PathLength | None = None
    one_graph: bool = False

    @property
    def running(self) -> list[Tensor]:
        """What is kept from step to step beside networks and optimizers, and has to be averaged over the ranks."""
        anchors = [] if self.anchors is None else [self.anchors]
        signs = [] if self.augmenter is None else [self.augmenter.signs]
        return anchors + signs + ([] if self.path is None else [self.path.mean])
