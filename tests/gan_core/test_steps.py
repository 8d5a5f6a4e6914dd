import pytest
import torch

from gan_core import steps
from gan_core.losses import LOSSES, AdversarialLoss
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
    reported = clipped._history.read({"d": 1, "g": 1}, None)["d/gradient_norm"]
    assert reported == pytest.approx(before, rel=1e-10)


def test_no_gradient_reaches_the_discriminator_in_a_generator_step():
    trainer = tiny_trainer()
    parts = trainer.parts
    latents = trainer._latents("g", 0)
    steps.generator_step(parts.g, parts.d, None, latents, parts.game)
    assert all(p.grad is None for p in parts.d.parameters)
    assert all(p.requires_grad for p in parts.d.parameters)
    assert all(p.grad is not None for p in parts.g.parameters)


def test_no_gradient_reaches_the_generator_in_a_discriminator_step():
    trainer = tiny_trainer()
    parts = trainer.parts
    before = [p.detach().clone() for p in parts.g.parameters]
    steps.discriminator_step(parts.d, parts.g, trainer._real("d", 0), trainer._latents("d", 0), parts.game)
    assert all(p.grad is None for p in parts.g.parameters)
    assert all(torch.equal(p, old) for p, old in zip(parts.g.parameters, before, strict=True))


def test_a_loss_that_reads_real_logits_without_saying_so_is_found_out():
    trainer = tiny_trainer()
    loss = AdversarialLoss(LOSSES["minimax"].discriminator, lambda real, fake: torch.nn.functional.softplus(real - fake))
    game = trainer.parts.game._replace(loss=loss)
    stats = steps.generator_step(trainer.parts.g, trainer.parts.d, None, trainer._latents("g", 0), game)
    assert stats["g/loss"].isnan()


def test_a_loss_that_says_so_gets_the_logits_of_a_real_batch():
    seen = []

    def generator(real, fake):
        seen.append(real.detach().clone())
        return torch.nn.functional.softplus(real - fake)

    trainer = tiny_trainer()
    loss = AdversarialLoss(LOSSES["minimax"].discriminator, generator, generator_reads_real=True)
    trainer.parts = trainer.parts._replace(game=trainer.parts.game._replace(loss=loss))
    trainer._round()
    real = trainer._real("g", 0)
    with torch.no_grad():  # the generator's step leaves the discriminator as it was
        torch.testing.assert_close(seen[0], trainer.parts.d.network(real.inputs))
    assert not torch.equal(real.inputs, trainer._real("d", 0).inputs)


def test_statistics_are_those_of_the_logits():
    trainer = tiny_trainer(precision="float64")
    parts = trainer.parts
    real, latents = trainer._real("d", 0), trainer._latents("d", 0)
    with torch.no_grad():
        real_logits = parts.d.network(real.inputs)
        fake_logits = parts.d.network(parts.g.network(latents.inputs))
    stats = steps.discriminator_step(parts.d, parts.g, real, latents, parts.game)
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
