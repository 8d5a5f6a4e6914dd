import pytest
import torch

from gan_core.losses import LOSSES

LOGITS = torch.linspace(-6, 6, 13, dtype=torch.float64)
REAL, FAKE = torch.meshgrid(LOGITS, LOGITS, indexing="ij")
REAL, FAKE = REAL.flatten(), FAKE.flatten()

# Written with probabilities, as the paper writes them.
PUBLISHED = {
    "minimax": (lambda d_real, d_fake: -d_real.log() - (1 - d_fake).log(), lambda d_real, d_fake: (1 - d_fake).log()),
    "non_saturating": (lambda d_real, d_fake: -d_real.log() - (1 - d_fake).log(), lambda d_real, d_fake: -d_fake.log()),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_equals_its_published_form(name):
    d_side, g_side = PUBLISHED[name]
    d_real, d_fake = REAL.sigmoid(), FAKE.sigmoid()
    torch.testing.assert_close(LOSSES[name].discriminator(REAL, FAKE), d_side(d_real, d_fake), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(LOSSES[name].generator(REAL, FAKE), g_side(d_real, d_fake), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_gives_one_value_a_sample_and_right_gradients(name):
    real, fake = (torch.randn(5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    for side in LOSSES[name][:2]:
        assert side(real, fake).shape == (5,)
        assert torch.autograd.gradcheck(side, (real, fake))


def gradient_for_generator(name, logit):
    fake = torch.tensor([logit], dtype=torch.float64, requires_grad=True)
    LOSSES[name].generator(torch.full_like(fake, torch.nan), fake).sum().backward()
    return fake.grad.item()


def test_the_minimax_generator_saturates_and_the_non_saturating_one_does_not():
    """1406.2661, section 3: with D sure of a fake at logit v, the gradients are -sigmoid(v) and -sigmoid(-v)."""
    assert gradient_for_generator("minimax", -20.0) == pytest.approx(-2.0611536181902037e-09, rel=1e-12)
    assert gradient_for_generator("non_saturating", -20.0) == pytest.approx(-0.9999999979388464, rel=1e-12)
    assert gradient_for_generator("minimax", 0.0) == gradient_for_generator("non_saturating", 0.0) == -0.5


@pytest.mark.parametrize("name", LOSSES)
def test_float32_losses_are_finite_at_logits_of_a_thousand(name):
    extreme = torch.tensor([-1000.0, 1000.0])
    for side in LOSSES[name][:2]:
        assert side(extreme, extreme.flip(0)).isfinite().all()


def test_at_equilibrium_the_value_is_minus_log_four():
    """1406.2661, theorem 1: D = 1/2 everywhere gives V = -log 4, and our discriminator minimises -V."""
    zero = torch.zeros(1, dtype=torch.float64)
    assert LOSSES["minimax"].discriminator(zero, zero).item() == pytest.approx(1.3862943611198906, rel=1e-14)
