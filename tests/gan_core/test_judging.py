import pytest
import torch

from gan_core import judging
from gan_core.datatypes import Batch
from gan_core.fitting import judges_together
from gan_core.networks import dcgan
from tests.gan_core.ranks import R3GAN, STYLEGAN2
from tests.support import tiny_trainer

DCGAN = {"network__name": "dcgan", "network__generator__width": 8, "network__discriminator__width": 8}


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("network", [{}, {**DCGAN, "network__discriminator__norm": "layer"}, STYLEGAN2], ids=["mlp", "dcgan", "stylegan2"])
def test_reals_and_fakes_in_one_pass_have_the_logits_they_have_apart(network, conditional):
    trainer = tiny_trainer(precision="float64", **network, network__conditional=conditional)
    assert trainer.parts.game.judge == judging.EACH_IN_ONE_PASS
    real = trainer.supply.real("d", 0)
    z = Batch(trainer.supply.z("d", 0), real.labels)
    fake = Batch(trainer.parts.g.network(*z).detach(), z.labels)
    together, apart = (function(trainer.parts.d.network, real, fake) for function in (judging.logits_in_one_pass, judging.own_logits))
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [{"network__discriminator__dropout": 0.5}, {"regularizers__spectral_norm": True}, R3GAN],
    ids=["dropout", "spectral norm", "slower so"],
)
def test_a_discriminator_that_would_see_others_or_be_slower_judges_them_apart(options):
    assert tiny_trainer(**options).parts.game.judge == judging.EACH


def test_batch_norm_keeps_the_sides_apart():
    shape = {"resolution": 16, "channels": 1, "num_classes": 0}
    assert not judges_together(dcgan.discriminator(**shape))
    assert judges_together(dcgan.discriminator(**shape, norm="instance"))
