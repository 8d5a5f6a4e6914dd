import torch

from gan_core import sampling
from gan_core.supply import AT_ONCE, AT_ONCE_NUMBERS
from tests.support import tiny_trainer

STEPS = (0, 1, AT_ONCE - 1, AT_ONCE, AT_ONCE + 1, 3, 2, 5 * AT_ONCE + 7, 4, 5)


def test_what_is_drawn_for_many_steps_at_once_is_what_each_step_has_by_itself():
    options = {"variant": "wgan_gp", "augment__mirror": True, "network__conditional": True}
    trainer = tiny_trainer(**options)
    for step in STEPS:
        alone = tiny_trainer(**options).supply
        assert torch.equal(trainer.supply.z("d", step), alone.z("d", step))
        assert torch.equal(trainer.supply.z("d", step), sampling.latents(0, "d/z", step, batch_size=16, z_dim=alone.config.network.z_dim))
        assert torch.equal(trainer.supply.penalty_draws(step), alone.penalty_draws(step))
        for mine, other in ((trainer.supply.real("d", step), alone.real("d", step)), (trainer.supply.latents(step), alone.latents(step))):
            assert torch.equal(mine.inputs, other.inputs)
            assert torch.equal(mine.labels, other.labels)


def test_each_step_is_drawn_once_and_a_large_one_when_it_is_due():
    supply = tiny_trainer().supply
    for numbers, expected in ((100, 2 * AT_ONCE), (AT_ONCE_NUMBERS // 4, AT_ONCE + 4), (2 * AT_ONCE_NUMBERS, AT_ONCE + 1)):
        asked = []

        def draw(step, asked=asked):
            asked.append(step)
            return torch.tensor(step)

        for step in range(AT_ONCE + 1):
            assert supply._drawn(f"of {numbers}", step, draw, numbers=numbers) == step
        assert asked[: AT_ONCE + 1] == list(range(AT_ONCE + 1))
        assert abs(len(asked) - expected) <= 3
