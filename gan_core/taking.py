"""How a trainer's steps are taken: as written, or recorded; chosen once, from config and device."""

from typing import NamedTuple

import torch

from gan_core.building import Parts
from gan_core.config import GanConfig
from gan_core.datatypes import Batch
from gan_core.game import Stats
from gan_core.recording import CudaRecorder, Draws, RecordedStep, Recorder, Step
from gan_core.steps import discriminator_step, generator_step


class Taking(NamedTuple):
    """A step of each player on its inputs. `why_not` says why steps are not recorded though that was asked for."""

    d: Step
    g: Step
    why_not: str = ""

    @property
    def failure(self) -> str:
        """Why steps are taken as written though they were to be recorded; empty where they are not, or nobody asked."""
        recorded = [step for step in (self.d, self.g) if isinstance(step, RecordedStep)]
        return self.why_not or next((step.failure for step in recorded if step.failure), "")


def taking(config: GanConfig, parts: Parts, recorder: Recorder | None = None) -> Taking:
    """The steps of these parts; `recorder` is CUDA's on a GPU unless another is given."""

    def d_step(real: Batch | None, latents: Batch, draws: Draws, step: int) -> Stats:
        assert real is not None, "the discriminator's step has real images"
        return discriminator_step(parts.d, parts.g, real, latents, parts.game, step=step, draws=draws)

    def g_step(real: Batch | None, latents: Batch, _: Draws, step: int) -> Stats:
        return generator_step(parts.g, parts.d, real, latents, parts.game, step=step)

    def d_kind(step: int) -> tuple[bool, ...]:
        return tuple(step % penalty.interval == 0 for penalty in parts.game.penalties)

    def g_kind(step: int) -> bool:
        return parts.game.path is not None and step % parts.game.path.interval == 0

    if not config.speed.cuda_graphs:
        return Taking(d_step, g_step)
    if why := why_not_recorded(config, parts, cuda=recorder is None):
        return Taking(d_step, g_step, why)
    recorder = recorder or CudaRecorder(parts.device)
    return Taking(RecordedStep(d_step, d_kind, recorder, parts.device), RecordedStep(g_step, g_kind, recorder, parts.device))


def why_not_recorded(config: GanConfig, parts: Parts, *, cuda: bool = True) -> str:
    """Why steps of this config cannot be recorded on its device, or an empty text."""
    if cuda and parts.device.type != "cuda":
        return f"CUDA graphs are for CUDA GPUs, and this is {parts.device.type}"
    if parts.draws_noise:
        return "the network draws noise (dropout), which is seeded anew for each step"
    if parts.game.augmenter is not None:
        return "augmentations choose what they do from step to step"
    if config.reuse_fakes:
        return "reuse_fakes keeps a graph of gradients from one step to the next"
    if torch.distributed.is_initialized() and torch.distributed.get_backend() == "gloo":
        return "gloo's collectives go through the CPU; NCCL's can be recorded"
    return ""
