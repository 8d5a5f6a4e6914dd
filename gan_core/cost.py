"""What a step of each player costs on this machine, measured: for estimates before a long run."""

import statistics
import time
from typing import NamedTuple

import torch

from gan_core.config import GanConfig
from gan_core.trainer import Trainer

WARM_UP, MEASURED = 2, 5


class StepCost(NamedTuple):
    """Seconds of one discriminator step and of one generator step, each with its batch."""

    d: float
    g: float

    def of(self, kimg: float, config: GanConfig) -> float:
        """Seconds of training for a budget at the config's ratio, without scores, reports and start-up."""
        d_steps = kimg * 1000.0 / config.batch_size
        return d_steps * (self.d + self.g * config.ratio.g / config.ratio.d)


def measure(config: GanConfig, device: torch.device | str | None = None) -> StepCost:
    """The medians of a few steps of this config, after as many that warm up.

    Raises:
        ValueError: the config does not fit its data.
    """
    trainer = Trainer(config, device=device, evaluates=False)
    times: dict[str, list[float]] = {"d": [], "g": []}
    for _ in range(WARM_UP + MEASURED):
        for player, step in (("d", trainer.step_discriminator), ("g", trainer.step_generator)):
            started = time.perf_counter()
            step()
            if trainer.parts.device.type == "cuda":
                torch.cuda.synchronize(trainer.parts.device)
            times[player].append(time.perf_counter() - started)
    return StepCost(*(statistics.median(times[player][WARM_UP:]) for player in ("d", "g")))
