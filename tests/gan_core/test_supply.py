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
        assert len(asked) == expected


def test_a_look_at_a_few_images_draws_for_itself_alone(monkeypatch):
    supply = tiny_trainer(augment__mirror=True).supply
    supply.to_diagnose(0)
    assert not supply._blocks
    supply.real("d", 0)
    assert set(supply._blocks) == {"d/real", "d/real/mirror"}


def test_no_step_writes_to_what_was_drawn_for_the_next():
    trainer = tiny_trainer(variant="wgan_gp", augment__mirror=True)
    trainer.step_discriminator()
    trainer.step_generator()
    drawn = {stream: [tensor.clone() for tensor in block.drawn] for stream, block in trainer.supply._blocks.items()}
    for _ in range(3):
        trainer._round()
    assert {"d/z", "g/z", "d/real"} < set(drawn)
    for stream, block in trainer.supply._blocks.items():
        assert all(torch.equal(*pair) for pair in zip(block.drawn, drawn[stream], strict=True))
