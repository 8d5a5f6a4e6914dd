import pytest
import torch

from gan_core import micro_batch
from gan_core.datatypes import Batch
from gan_core.steps import generator_step
from tests.support import tiny_config, tiny_trainer


def test_the_generators_first_step_in_a_round_takes_the_fakes_that_the_discriminator_was_shown_last():
    trainer = tiny_trainer(reuse_fakes=True, step_ratio="2:2", precision="float64")
    made = []
    trainer.parts.g.network.register_forward_hook(lambda network, given, images: made.append((given[0], images)))
    trainer._round()
    assert len(made) == 3  # twice for d, the second kept, and once for g's second step
    z = [given for given, _ in made]
    for found, expected in zip(z, (trainer.supply.z("d", 0), trainer.supply.z("d", 1), trainer.supply.z("g", 1)), strict=True):
        assert torch.equal(found, expected)
    assert [images.requires_grad for _, images in made] == [False, True, True]


@pytest.mark.parametrize("loss", ["non_saturating", "relativistic"])
def test_a_reused_step_is_the_step_on_those_latents(loss):
    """Without batch statistics or noise, making the same fakes anew gives the same gradients."""
    reused, anew = (
        tiny_trainer(reuse_fakes=reuse, precision="float64", loss__name=loss, network__conditional=True) for reuse in (True, False)
    )
    reused._round()
    anew.step_discriminator()
    shown = anew.supply.real("d", 0)
    z = anew.supply.z("d", 0)
    paired = shown if anew.parts.game.loss.generator_reads_real else None
    generator_step(anew.parts.g, anew.parts.d, paired, Batch(z, shown.labels), anew.parts.game, step=0)
    for mine, theirs in zip(reused.parts.g.parameters, anew.parts.g.parameters, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-14)


def test_a_batch_whose_graph_is_kept_cannot_be_divided():
    with pytest.raises(ValueError, match="reuse_fakes"):
        tiny_config(reuse_fakes=True, accumulation_steps=2)
    trainer = tiny_trainer(reuse_fakes=True)
    with pytest.raises(ValueError, match="reuse_fakes"):
        micro_batch.halved(trainer.config, trainer.parts.d.network, 1, 1)
