"""Augmentation in the game: the controller of 2006.06676, and that both sides see the same kind of images whatever the division."""

import copy

import pytest
import torch

from gan_core import steps
from gan_core.augment import STEPS_PER_LOOK, Augmenter
from gan_core.augmentations import ada, diffaugment
from gan_core.datatypes import Batch
from tests.support import tiny_config, tiny_trainer

CPU = torch.device("cpu")


def adaptive(**changes):
    settings = {"probability": None, "target": 0.6, "full_kimg": 10.0, "batch_size": 100, "device": CPU, "dtype": torch.float64}
    return Augmenter(ada.augmentation(), **{**settings, **changes})


def look(augmenter, accuracies):
    for step, accuracy in enumerate(accuracies):
        augmenter.observe(torch.tensor(accuracy, dtype=torch.float64))
        augmenter.adjust(step)


def test_the_probability_rises_while_the_discriminator_is_too_sure_and_falls_when_it_is_not():
    """r_t = E[sign D] is 0.8 at an accuracy of 0.9, and 0.4 at 0.7; the target lies between."""
    augmenter = adaptive()
    look(augmenter, [0.9] * 3)
    assert augmenter.probability.item() == 0.0
    look(augmenter, [0.9] * 4)
    step_size = 100 * STEPS_PER_LOOK / 10_000
    assert augmenter.probability.item() == pytest.approx(step_size)
    assert augmenter.metrics()["augment/overfitting"] == pytest.approx((3 + 4) * 0.8 / 4)  # three of the first, four of the second
    augmenter.signs.zero_()
    look(augmenter, [0.9] * 4)
    assert augmenter.probability.item() == pytest.approx(2 * step_size)
    look(augmenter, [0.7] * 4)
    assert augmenter.probability.item() == pytest.approx(step_size)
    assert augmenter.metrics() == {"augment/probability": pytest.approx(step_size), "augment/overfitting": pytest.approx(0.4)}


def test_the_mean_over_four_steps_decides():
    augmenter = adaptive()
    look(augmenter, [1.0, 1.0, 0.6, 0.65])  # signs 1, 1, 0.2, 0.3: mean 0.625
    assert augmenter.probability.item() > 0.0
    augmenter = adaptive()
    look(augmenter, [1.0, 1.0, 0.6, 0.55])  # mean 0.575
    assert augmenter.probability.item() == 0.0


def test_the_probability_takes_full_kimg_from_0_to_1_and_stays_there():
    augmenter = adaptive()
    for _ in range(24):
        look(augmenter, [1.0] * 4)
    assert augmenter.probability.item() == pytest.approx(0.96)  # after 24 looks of 400 images: 9.6 of 10 kimg
    for _ in range(3):
        look(augmenter, [1.0] * 4)
    assert augmenter.probability.item() == 1.0


def test_a_fixed_probability_stays():
    augmenter = Augmenter(
        diffaugment.augmentation(), probability=0.3, target=0.6, full_kimg=1.0, batch_size=100, device=CPU, dtype=torch.float32
    )
    look(augmenter, [1.0] * 8)
    assert augmenter.metrics() == {"augment/probability": pytest.approx(0.3)}


def test_a_fake_is_augmented_by_its_z_whatever_stands_beside_it():
    augmenter = adaptive(probability=1.0)
    images, z = torch.rand(8, 1, 8, 8, dtype=torch.float64) * 2 - 1, torch.randn(8, 5, dtype=torch.float64)
    whole = augmenter.fake(images, z)
    parts = torch.cat([augmenter.fake(images[:3], z[:3]), augmenter.fake(images[3:], z[3:])])
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-12)
    assert (augmenter.fake(images, torch.randn(8, 5)) - whole).abs().amax((1, 2, 3)).min() > 1e-3


@pytest.mark.parametrize("name", ["diffaugment", "ada"])
def test_the_discriminator_sees_augmented_images_only(name, monkeypatch):
    """With a probability of 1 both players' steps hand it other images than those of the data and of the generator."""
    trainer = tiny_trainer(augment__name=name, augment__probability=1.0, regularizers__r1_gamma=1.0)
    parts = trainer.parts
    plain = tiny_trainer().supply.real("d", 0).inputs
    real = trainer.supply.real("d", 0)
    assert (real.inputs - plain).abs().amax((1, 2, 3)).min() > 1e-3
    latents = Batch(trainer.supply.z("d", 0), None)
    made = parts.g.network(latents.inputs)
    judged = steps.fakes(parts.g.network, latents, parts.game).inputs
    assert (judged - made).abs().amax((1, 2, 3)).min() > 1e-3
    seen = []
    parts.d.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    steps.discriminator_step(parts.d, parts.g, real, latents, parts.game, step=0)
    for images in seen:
        assert torch.equal(images, judged.detach()) or torch.equal(images, real.inputs)
    assert len(seen) == 2  # fakes and reals; R1 reads the logits of the loss


def test_the_generator_learns_through_the_augmentation():
    trainer = tiny_trainer(augment__name="ada", augment__probability=1.0)
    parts = trainer.parts
    steps.generator_step(parts.g, parts.d, None, trainer.supply.latents(0), parts.game, step=0)
    assert all(parameter.grad.isfinite().all() for parameter in parts.g.parameters)
    assert sum(parameter.grad.abs().sum() for parameter in parts.g.parameters) > 0


def test_half_of_the_real_images_are_mirrored_and_fakes_are_not():
    trainer, plain = tiny_trainer(augment__mirror=True, batch_size=400), tiny_trainer(batch_size=400)
    found, before = trainer.supply.real("d", 0).inputs, plain.supply.real("d", 0).inputs
    mirrored = (found == before.flip(3)).all(3).all(2).all(1)
    same = (found == before).all(3).all(2).all(1)
    assert (mirrored | same).all()
    assert 160 < (mirrored & ~same).sum() < 240
    latents = trainer.supply.latents(0)
    torch.testing.assert_close(
        steps.fakes(trainer.parts.g.network, latents, trainer.parts.game).inputs, trainer.parts.g.network(latents.inputs)
    )


def test_augmentation_keeps_its_precision_under_autocast():
    trainer = tiny_trainer(augment__name="ada", augment__probability=1.0, precision="bfloat16")
    parts, latents = trainer.parts, trainer.supply.latents(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fake = steps.fakes(parts.g.network, latents, parts.game).inputs
    assert fake.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = parts.g.network(latents.inputs)
    assert torch.equal(fake, parts.game.augmenter.fake(made, latents.inputs))


def test_a_perturbed_probability_holds():
    before = tiny_trainer(augment__name="diffaugment", augment__probability=0.3)
    after = tiny_trainer(augment__name="diffaugment", augment__probability=0.8)
    state = before.state_dict()
    with pytest.raises(ValueError, match="augment.probability: 0.3 -> 0.8"):
        after.load_state_dict(state)
    after.load_state_dict(state, perturbed=["augment.probability"])
    assert after.parts.game.augmenter.probability.item() == pytest.approx(0.8)


def test_a_run_logs_the_probability_and_goes_on_from_it():
    options = {"augment__name": "ada", "augment__full_kimg": 0.5, "augment__target": -0.9, "total_kimg": 0.32}
    reports = []
    whole = tiny_trainer(**options, schedule__checkpoint_kimg=0.144)
    states = []
    whole.run(lambda report: (reports.append(report), states.append(copy.deepcopy(report.state())) if report.state else None))
    assert reports[-1].metrics["augment/probability"] > reports[1].metrics["augment/probability"] >= 0.0
    assert -1.0 <= reports[-1].metrics["augment/overfitting"] <= 1.0
    half = tiny_trainer(**options, schedule__checkpoint_kimg=0.144)
    assert states[0]["images_seen"] == 144  # nine steps: between two looks
    half.load_state_dict(states[0])
    half.run(lambda report: None)
    for ours, theirs in zip(half.parts.g.parameters, whole.parts.g.parameters, strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(half.parts.game.augmenter.probability, whole.parts.game.augmenter.probability)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"augment__name": "adda"}, r"unknown augmentation name 'adda' \(did you mean 'ada'\?\); choices: ada, diffaugment"),
        ({"augment__name": "ada", "augment__colour": False}, r"unknown key 'augment.colour' \(did you mean 'color'\?\)"),
        ({"augment__target": 0.5}, "augment.target has no effect without augment.name; set it to ada or diffaugment"),
        ({"augment__pixel": True}, "augment.pixel has no effect without augment.name"),
        ({"augment__name": "diffaugment", "augment__target": 0.5}, "augment.target has no effect, because augment.probability is fixed"),
        ({"augment__foo": None}, "augment.foo has no effect without augment.name"),
        ({"augment__name": "ada", "augment__probability": 0.0}, "augment.probability: 0 augments nothing; set augment.name=null"),
        ({"augment__name": "ada", "augment__probability": 1.5}, "augment.probability: input should be less than or equal to 1, given 1.5"),
    ],
)
def test_settings_that_cannot_work_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        tiny_config(**options)


@pytest.mark.parametrize("option", [{"augment__name": "ada"}, {"augment__mirror": True}])
def test_points_cannot_be_augmented(option):
    with pytest.raises(ValueError, match="is points, and not images; set augment.name=null and augment.mirror=false"):
        tiny_trainer(data={"name": "ring2d", "count": 100}, network__generator__output="linear", **option)


def test_each_augmentation_has_its_own_default_for_the_probability():
    assert tiny_config(augment__name="ada").augment.probability is None
    assert tiny_config(augment__name="diffaugment").augment.probability == 1.0
    assert tiny_config(augment__name="diffaugment", augment__probability=None).augment.probability is None
