import pytest
import torch

from gan_core import judging
from gan_core.datatypes import Batch
from gan_core.fitting import draws_noise, judges_together, repeats_itself
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


PENALISED = {
    "r1 and r2": {"regularizers__r1_gamma": 2.0, "regularizers__r2_gamma": 1.0},
    "lecam": {"regularizers__lecam_lambda": 0.3},
    "bcr beside gp and a lazy r1": {
        "regularizers__bcr_lambda": 1.0,
        "regularizers__gp_lambda": 1.0,
        "regularizers__r1_gamma": 1.0,
        "regularizers__r1_interval": 2,
    },
    "packed": {"regularizers__r1_gamma": 2.0, "network__packing": 2},
    "conditional, accumulated": {"regularizers__r2_gamma": 2.0, "network__conditional": True, "accumulation_steps": 2},
}


@pytest.mark.parametrize("case", PENALISED)
def test_penalties_in_one_graph_with_the_loss_are_those_of_graphs_of_their_own(case):
    one, apart = (tiny_trainer(precision="float64", **PENALISED[case]) for _ in range(2))
    assert one.parts.game.one_graph
    apart.parts = apart.parts._replace(game=apart.parts.game._replace(one_graph=False))
    for trainer in (one, apart):
        for _ in range(4):
            trainer._round()
    for mine, theirs in zip(one.parts.d.parameters, apart.parts.d.parameters, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)
    assert one.state.history.read(None) == pytest.approx(apart.state.history.read(None), rel=1e-10)


@pytest.mark.parametrize(
    "options",
    [
        {"network__discriminator__dropout": 0.5},
        {"regularizers__spectral_norm": True},
        {"precision": "bfloat16"},
        {"loss__name": "relativistic_average"},
        {"regularizers__r1_interval": 2},
    ],
    ids=["dropout", "spectral norm", "autocast", "a loss across ranks", "lazy"],
)
def test_penalties_keep_a_graph_of_their_own_where_another_pass_has_other_logits(options):
    assert not tiny_trainer(**{"regularizers__r1_gamma": 2.0, **options}).parts.game.one_graph
    assert tiny_trainer(regularizers__r1_gamma=2.0).parts.game.one_graph


@pytest.mark.parametrize("one_graph", [False, True])
def test_a_loss_of_differences_leaves_the_last_bias_exactly_where_it_is(one_graph):
    trainer = tiny_trainer(precision="float64", loss__name="relativistic", regularizers__r1_gamma=1.0 if one_graph else 0.0)
    assert trainer.parts.game.one_graph == one_graph
    for _ in range(3):
        trainer._round()
    bias = dict(trainer.parts.d.network.named_parameters())["logit.bias"]
    assert bias.grad.item() == 0.0


@pytest.mark.parametrize("layer", [torch.nn.Dropout2d(0.5), torch.nn.AlphaDropout(0.5)], ids=["Dropout2d", "AlphaDropout"])
def test_dropout_of_every_kind_draws_noise(layer):
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), layer)
    assert draws_noise(network)
    assert not repeats_itself(network)
    assert repeats_itself(network[0])
    assert not repeats_itself(torch.nn.utils.spectral_norm(torch.nn.Linear(2, 2)))
