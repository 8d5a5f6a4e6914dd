import pytest
import torch

from gan_core import steps
from gan_core.datatypes import Batch
from gan_core.losses import LOSSES
from gan_core.regularizers import REGULARIZERS
from tests.support import tiny_trainer


def one_step_each(**overrides):
    trainer = tiny_trainer(precision="float64", **overrides)
    trainer._round()
    return trainer


@pytest.mark.parametrize("accumulation_steps", [2, 4, 16])
def test_accumulated_gradients_equal_those_of_the_whole_batch(accumulation_steps):
    whole, cut = one_step_each(), one_step_each(accumulation_steps=accumulation_steps)
    for player in ("d", "g"):
        pairs = zip(getattr(whole.parts, player).parameters, getattr(cut.parts, player).parameters, strict=True)
        for expected, found in pairs:
            torch.testing.assert_close(found.grad, expected.grad, rtol=1e-12, atol=1e-15)


def test_a_clipped_gradient_has_the_norm_asked_for_and_the_report_has_the_norm_before():
    free = one_step_each()
    clipped = one_step_each(optimizer__discriminator__clip_norm=1e-3)
    norm = torch.stack([p.grad.norm() for p in clipped.parts.d.parameters]).norm()
    assert norm.item() == pytest.approx(1e-3, rel=1e-3)
    before = torch.stack([p.grad.norm() for p in free.parts.d.parameters]).norm().item()
    reported = clipped.state.history.read(None)["d/gradient_norm"]
    assert reported == pytest.approx(before, rel=1e-10)


def test_no_gradient_reaches_the_discriminator_in_a_generator_step():
    trainer = tiny_trainer()
    parts = trainer.parts
    latents = trainer.supply.latents(0)
    steps.generator_step(parts.g, parts.d, None, latents, parts.game, step=0)
    assert all(p.grad is None for p in parts.d.parameters)
    assert all(p.requires_grad for p in parts.d.parameters)
    assert all(p.grad is not None for p in parts.g.parameters)


def test_no_gradient_reaches_the_generator_in_a_discriminator_step():
    trainer = tiny_trainer()
    parts = trainer.parts
    before = [p.detach().clone() for p in parts.g.parameters]
    steps.discriminator_step(parts.d, parts.g, trainer.supply.real("d", 0), Batch(trainer.supply.z("d", 0), None), parts.game, step=0)
    assert all(p.grad is None for p in parts.g.parameters)
    assert all(torch.equal(p, old) for p, old in zip(parts.g.parameters, before, strict=True))


def test_a_loss_that_reads_real_logits_without_saying_so_is_found_out():
    trainer = tiny_trainer()
    game = trainer.parts.game._replace(generator_loss=LOSSES["relativistic"].generator)
    stats = steps.generator_step(trainer.parts.g, trainer.parts.d, None, trainer.supply.latents(0), game, step=0)
    assert stats["g/loss"].isnan()


def test_a_loss_that_says_so_gets_the_logits_of_a_real_batch():
    seen = []

    def generator(real, fake):
        seen.append(real.detach().clone())
        return torch.nn.functional.softplus(real - fake)

    trainer = tiny_trainer()
    game = trainer.parts.game
    game = game._replace(loss=game.loss._replace(generator_reads_real=True), generator_loss=generator)
    trainer.parts = trainer.parts._replace(game=game)
    trainer._round()
    real = trainer.supply.real("g", 0)
    with torch.no_grad():  # the generator's step leaves the discriminator as it was
        torch.testing.assert_close(seen[0], trainer.parts.d.network(real.inputs))
    assert not torch.equal(real.inputs, trainer.supply.real("d", 0).inputs)


def test_statistics_are_those_of_the_logits():
    trainer = tiny_trainer(precision="float64")
    parts = trainer.parts
    real, latents = trainer.supply.real("d", 0), Batch(trainer.supply.z("d", 0), None)
    with torch.no_grad():
        real_logits = parts.d.network(real.inputs)
        fake_logits = parts.d.network(parts.g.network(latents.inputs))
    stats = steps.discriminator_step(parts.d, parts.g, real, latents, parts.game, step=0)
    assert stats["d/real_logits"].item() == pytest.approx(real_logits.mean().item(), rel=1e-12)
    assert stats["d/accuracy_real"].item() == pytest.approx((real_logits > 0).double().mean().item(), rel=1e-12)
    assert stats["d/accuracy_fake"].item() == pytest.approx((fake_logits < 0).double().mean().item(), rel=1e-12)
    assert stats["d/loss"].item() == pytest.approx(LOSSES["minimax"].discriminator(real_logits, fake_logits).mean().item(), rel=1e-12)


def test_bfloat16_trains_and_leaves_parameters_and_losses_in_float32():
    trainer = tiny_trainer(precision="bfloat16", network__name="dcgan", network__generator__width=4, network__discriminator__width=4)
    reports = []
    trainer.run(reports.append)
    assert all(p.dtype == torch.float32 for p in trainer.parts.d.parameters)
    exact = tiny_trainer(precision="float32", network__name="dcgan", network__generator__width=4, network__discriminator__width=4)
    exact.run(lambda report: None)
    assert reports[-1].metrics["d/loss"] == pytest.approx(1.386, abs=0.2)
    assert not torch.equal(trainer.parts.d.parameters[0], exact.parts.d.parameters[0])
    torch.testing.assert_close(trainer.parts.d.parameters[0], exact.parts.d.parameters[0], rtol=0, atol=0.02)


def moved_by(trainer, penalties, *, step):
    """How far the discriminator's weights moved in one step, from a fresh trainer; plain SGD of rate 1."""
    parts = trainer.parts
    d = parts.d._replace(optimizer=torch.optim.SGD(parts.d.parameters, lr=1.0))
    game = parts.game._replace(penalties=penalties)
    before = [parameter.detach().clone() for parameter in d.parameters]
    steps.discriminator_step(d, parts.g, trainer.supply.real("d", 0), Batch(trainer.supply.z("d", 0), None), game, step=step)
    return [old - parameter.detach() for parameter, old in zip(d.parameters, before, strict=True)]


def test_a_lazy_penalty_acts_at_every_interval_th_step_with_its_interval_as_gain():
    fresh = {"precision": "float64", "regularizers__r1_gamma": 0.02, "regularizers__r1_interval": 4}
    (penalty,) = tiny_trainer(**fresh).parts.game.penalties
    assert (penalty.weight, penalty.interval) == (0.01, 4)
    free = moved_by(tiny_trainer(**fresh), (), step=0)
    for step, acts in ((0, True), (1, False), (3, False), (4, True)):
        trainer = tiny_trainer(**fresh)
        found = moved_by(trainer, (penalty,), step=step)
        trainer = tiny_trainer(**fresh)
        for parameter, step_of in zip(trainer.parts.d.parameters, free, strict=True):
            parameter.data -= step_of
        trainer.parts.d.optimizer.zero_grad()
        value = penalty.regularizer(trainer.parts.d.network, trainer.supply.real("d", 0).inputs, trainer.supply.real("d", 0).inputs).mean()
        (value * 0.01 * 4).backward()
        for one, two, parameter in zip(found, free, trainer.parts.d.parameters, strict=True):
            extra = torch.zeros_like(two) if parameter.grad is None or not acts else parameter.grad
            torch.testing.assert_close(one - two, extra, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("intervals", "share"),
    [
        ({"r1": 16}, 16 / 17),
        ({"r1": 4, "r2": 4}, 4 / 5),
        ({"r1": 4, "r2": 16}, 4 / 5),
        ({"r1": 2, "r2": 3}, 6 / 10),
        ({"r1": 1}, 1.0),
        ({"r1": 2, "r2": 3, "gp": 5}, 1 / (1 + 22 / 30)),
        ({"r1": 9973, "r2": 9967, "gp": 9949}, 1 / (2 - (1 - 1 / 9973) * (1 - 1 / 9967) * (1 - 1 / 9949))),
    ],
)
def test_adam_is_corrected_for_lazy_steps(intervals, share):
    """1912.04958, appendix B: lr * c and beta ** c with c = i / (i + 1); penalties that are due together share a step."""
    options = {f"regularizers__{REGULARIZERS[name].weight_key}": 1.0 for name in intervals}
    options |= {f"regularizers__{name}_interval": interval for name, interval in intervals.items()}
    adam = tiny_trainer(**options).parts.d.optimizer.param_groups[0]
    assert adam["lr"] == pytest.approx(2e-4 * share, rel=1e-12)
    assert adam["betas"] == (pytest.approx(0.5**share, rel=1e-12), pytest.approx(0.999**share, rel=1e-12))
    assert tiny_trainer(**options).parts.g.optimizer.param_groups[0]["lr"] == 2e-4


def test_penalties_at_every_step_enter_the_gradient_with_their_weight():
    options = {"precision": "float64", "regularizers__r1_gamma": 3.0, "regularizers__lecam_lambda": 0.7}
    trainer = tiny_trainer(**options)
    parts, real, latents = trainer.parts, trainer.supply.real("d", 0), Batch(trainer.supply.z("d", 0), None)
    with torch.no_grad():
        fake_images = parts.g.network(latents.inputs)
    real_logits, fake_logits = parts.d.network(real.inputs), parts.d.network(fake_images)
    images = real.inputs.clone().requires_grad_()
    (slope,) = torch.autograd.grad(parts.d.network(images).sum(), images, create_graph=True)
    loss = LOSSES["non_saturating"].discriminator(real_logits, fake_logits).mean()
    loss = loss + 1.5 * slope.square().sum((1, 2, 3)).mean()
    loss = loss + 0.7 * (real_logits.square() + fake_logits.square()).mean()  # the anchors are still 0
    expected = torch.autograd.grad(loss, parts.d.parameters, allow_unused=True)
    stats = steps.discriminator_step(parts.d, parts.g, real, latents, parts.game, step=0)
    for parameter, gradient in zip(parts.d.parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-9, atol=1e-12)
    assert stats["d/penalty/r1"].item() == pytest.approx(slope.square().sum((1, 2, 3)).mean().item(), rel=1e-9)
    expected_anchors = 0.01 * torch.stack([real_logits.mean(), fake_logits.mean()])
    torch.testing.assert_close(parts.game.anchors, expected_anchors.detach(), rtol=1e-9, atol=1e-12)


def test_packed_images_become_the_channels_of_one_decision_in_order():
    images = torch.arange(4 * 3 * 2 * 2, dtype=torch.float64).view(4, 3, 2, 2)
    packed = steps.pack(Batch(images, None), 2).inputs
    assert packed.shape == (2, 6, 2, 2)
    assert torch.equal(packed[1], torch.cat([images[2], images[3]]))


def test_weights_are_clipped_after_every_step_also_a_lazy_one():
    trainer = tiny_trainer(regularizers__clip_weight=0.003, regularizers__r1_gamma=1.0, regularizers__r1_interval=2)
    for _ in range(3):
        trainer._round()
        largest = max(parameter.abs().max().item() for parameter in trainer.parts.d.parameters)
        assert largest == pytest.approx(0.003, rel=1e-6)
    assert max(parameter.abs().max().item() for parameter in trainer.parts.g.parameters) > 0.01


def test_a_gradient_that_nothing_reaches_is_zero_with_one_rank_too():
    """The mmd game never uses the last layer; Adam must treat it alike for any number of ranks."""
    trainer = tiny_trainer(loss__name="mmd")
    trainer._round()
    assert torch.equal(trainer.parts.d.network.logit.weight.grad, torch.zeros(1, 16))
