import math

import pytest
import torch

from gan_core import diagnostics
from gan_core.datatypes import Batch
from gan_core.diagnostics import Alarms, Thresholds
from gan_core.losses import LOSSES
from tests.support import tiny_trainer


def state_of(trainer):
    parts = trainer.parts
    tensors = [*parts.d.network.state_dict().values(), *parts.g.network.state_dict().values()]
    return [tensor.clone() for tensor in tensors]


def diagnose(**options):
    trainer = tiny_trainer(precision="float64", **options)
    trainer._round()
    return trainer, trainer._diagnose()


def inputs(trainer, count=64):
    images = trainer.parts.dataset.batch(trainer.parts.train[:count], trainer.parts.device, trainer.parts.dtype, labelled=False)
    return images, Batch(torch.randn(count, 8, dtype=torch.float64), None)


def test_value_and_bound_are_those_of_the_2014_paper():
    """V = E log D + E log(1 - D), and JSD >= (V + log 4) / 2."""
    trainer, _ = diagnose()
    real, latents = inputs(trainer)
    parts = trainer.parts
    found = diagnostics.measure(parts.d, parts.g, parts.game, train=real, held_out=real, latents=latents)
    with torch.no_grad():
        p_real = parts.d.network(real.inputs).sigmoid()
        p_fake = parts.d.network(parts.g.network(latents.inputs)).sigmoid()
    value = (p_real.log().mean() + (1 - p_fake).log().mean()).item()
    assert found["d/value_train"] == pytest.approx(value, rel=1e-10)
    assert found["d/bound_train"] == pytest.approx((value + math.log(4.0)) / 2.0, rel=1e-9)
    assert found["d/value_held_out"] == found["d/value_train"]
    assert found["d/value_gap"] == 0.0
    assert found["d/accuracy_train"] == (p_real > 0.5).double().mean().item()


def test_slopes_are_the_norms_of_single_images():
    trainer, _ = diagnose()
    real, latents = inputs(trainer, count=5)
    parts = trainer.parts
    found = diagnostics.measure(parts.d, parts.g, parts.game, train=real, held_out=None, latents=latents)
    norms = []
    for index in range(5):
        image = real.inputs[index : index + 1].clone().requires_grad_()
        norms.append(torch.autograd.grad(parts.d.network(image).sum(), image)[0].norm().item())
    assert found["d/image_gradient_real"] == pytest.approx(sum(norms) / 5, rel=1e-6)
    assert "d/value_held_out" not in found


def test_the_saturated_share_counts_fakes_without_a_slope():
    trainer, _ = diagnose(loss__name="minimax")
    parts = trainer.parts
    real, latents = inputs(trainer)
    shares = []
    for bias in (-60.0, 0.0, 60.0):
        with torch.no_grad():
            parts.d.network.logit.bias.fill_(bias)
        for loss in ("minimax", "non_saturating"):
            game = parts.game._replace(generator_loss=LOSSES[loss].generator)
            shares.append(diagnostics.measure(parts.d, parts.g, game, train=real, held_out=None, latents=latents)["g/saturated_share"])
    assert shares == [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]  # a fake that fooled D teaches nothing either, but that is no failure


@pytest.mark.parametrize("loss", ["non_saturating", "relativistic_average", "mmd"])
def test_a_generator_of_one_image_has_a_feature_variance_ratio_of_zero(loss):
    trainer, before = diagnose(loss__name=loss)
    real, latents = inputs(trainer)
    parts = trainer.parts
    one = Batch(latents.inputs[:1].expand(64, 8), None)
    found = diagnostics.measure(parts.d, parts.g, parts.game, train=real, held_out=None, latents=one)
    assert found["g/feature_variance_ratio"] == pytest.approx(0.0, abs=1e-12)
    with torch.no_grad():
        features = [parts.d.network.features(images) for images in (parts.g.network(latents.inputs), real.inputs)]
    fake, train = (side.var(0, correction=0).sum().item() for side in features)
    found = diagnostics.measure(parts.d, parts.g, parts.game, train=real, held_out=None, latents=latents)
    assert found["g/feature_variance_ratio"] == pytest.approx(fake / train, rel=1e-9)
    assert before["g/feature_variance_ratio"] > 0.0


@pytest.mark.parametrize(
    "options",
    [
        {"network__name": "dcgan", "network__generator__width": 4, "network__discriminator__width": 4},
        {"regularizers__spectral_norm": True},
        {"network__packing": 2},
        {"loss__name": "mmd"},
        {"network__conditional": True},
    ],
)
def test_measuring_leaves_training_as_it_was(options):
    trainer, _ = diagnose(**options)
    before = state_of(trainer)
    assert all(math.isfinite(value) for value in trainer._diagnose().values())
    assert all(torch.equal(one, two) for one, two in zip(before, state_of(trainer), strict=True))
    assert all(parameter.requires_grad for parameter in trainer.parts.d.parameters)
    silent = tiny_trainer(precision="float64", diagnostics__enabled=False, **options)
    silent._round()
    for one in (silent, trainer):
        one._round()
    assert all(torch.equal(one, two) for one, two in zip(state_of(silent), state_of(trainer), strict=True))


def test_held_out_images_are_never_trained_on():
    trainer = tiny_trainer()
    train, held_out = set(trainer.parts.train.tolist()), set(trainer.parts.held_out.tolist())
    assert len(held_out) == int(1797 * 0.05)
    assert not train & held_out
    assert train | held_out == set(range(1797))
    assert tiny_trainer(seed=5).parts.held_out.tolist() == sorted(held_out)
    assert len(tiny_trainer(diagnostics__held_out=0.0).parts.train) == 1797


def test_a_discriminator_that_learns_its_images_by_heart_shows_a_gap():
    """200 images, a wide discriminator, and a generator that hardly moves: it must know training images from held-out ones."""
    reports = []
    trainer = tiny_trainer(
        network__discriminator__hidden_width=256,
        optimizer__generator__lr=1e-9,
        optimizer__discriminator__lr=2e-3,
        diagnostics__held_out=0.5,
        diagnostics__images=512,
        batch_size=64,
        total_kimg=30,
        schedule__report_kimg=10,
        schedule__evaluate_kimg=30,
        schedule__checkpoint_kimg=30,
        schedule__sample_kimg=30,
    )
    trainer.parts = trainer.parts._replace(train=trainer.parts.train[:20])
    noisy = trainer.parts.dataset.images.clone()
    noisy.random_(0, 256, generator=torch.Generator().manual_seed(0))
    object.__setattr__(trainer.parts.dataset, "images", noisy)
    with torch.no_grad():
        trainer.parts.g.network.layers[-2].weight.mul_(30.0)  # fakes as rough as the noise they are compared with
    trainer.run(reports.append)
    last = reports[-1].metrics
    assert last["d/value_gap"] > 0.1
    assert last["d/accuracy_train"] - last["d/accuracy_held_out"] > 0.1


def test_a_discriminator_with_dead_features_does_not_accuse_the_generator():
    trainer, _ = diagnose()
    real, latents = inputs(trainer)
    parts = trainer.parts
    with torch.no_grad():
        for parameter in parts.d.network.features.parameters():
            parameter.zero_()
    found = diagnostics.measure(parts.d, parts.g, parts.game, train=real, held_out=None, latents=latents)
    assert "g/feature_variance_ratio" not in found
    assert found["d/image_gradient_real"] == 0.0


THRESHOLDS = Thresholds(collapse=0.1, saturation=0.9, overfitting=0.3, divergence=100.0, patience=2)
SIGNS = {
    "collapse": {"g/feature_variance_ratio": 0.05},
    "saturation": {"g/saturated_share": 0.95},
    "overfitting": {"d/accuracy_train": 0.95, "d/accuracy_held_out": 0.6},
    "divergence": {"d/gradient_norm": 1.0, "g/gradient_norm": 101.0},
}
FINE = {
    "g/feature_variance_ratio": 0.11,
    "g/saturated_share": 0.89,
    "d/accuracy_train": 0.95,
    "d/accuracy_held_out": 0.66,
    "d/gradient_norm": 99.0,
    "g/gradient_norm": 1.0,
}


@pytest.mark.parametrize("name", Alarms.NAMES)
def test_an_alarm_rings_after_so_many_reports_and_stops_with_its_reason(name):
    alarms = Alarms(THRESHOLDS)
    rang = [set(alarms.look(metrics)) for metrics in (FINE, FINE | SIGNS[name], FINE, FINE | SIGNS[name], FINE | SIGNS[name], FINE)]
    assert rang == [set(), set(), set(), set(), {name}, set()]


@pytest.mark.parametrize("name", Alarms.NAMES)
def test_an_alarm_can_be_turned_off_and_continues_from_its_state(name):
    off = Alarms(THRESHOLDS._replace(**{name: None}, patience=1))
    assert off.look(FINE | SIGNS[name]) == {}
    first, second = Alarms(THRESHOLDS), Alarms(THRESHOLDS)
    assert first.look(FINE | SIGNS[name]) == {}
    second.load_state_dict(first.state_dict())
    assert list(second.look(FINE | SIGNS[name])) == [name]


def test_a_reason_says_what_was_measured_and_the_threshold():
    alarms = Alarms(THRESHOLDS._replace(patience=1))
    assert alarms.look({"g/feature_variance_ratio": 0.05})["collapse"] == "feature variance ratio 0.05 is below 0.1 for 1 reports"


def test_an_alarm_keeps_ringing_between_its_looks():
    reports = []
    options = {"diagnostics__divergence": 1e-6, "diagnostics__patience": 1, "schedule__sample_kimg": 0.048}
    tiny_trainer(**options, schedule__report_kimg=0.064).run(reports.append)
    assert [report.images_seen for report in reports] == [0, 48, 64, 96, 128, 144, 160]
    assert [report.metrics["alarm/divergence"] for report in reports] == [0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0]


def test_a_training_that_diverges_raises_its_alarm_in_the_report():
    reports = []
    tiny_trainer(diagnostics__divergence=1e-6, diagnostics__patience=2, total_kimg=0.1, schedule__report_kimg=0.032).run(reports.append)
    assert [set(report.alarms) for report in reports] == [set(), set(), {"divergence"}, {"divergence"}, {"divergence"}][: len(reports)]
    assert reports[-1].metrics["alarm/divergence"] == 1.0
    assert reports[-1].metrics["alarm/collapse"] == 0.0
