import pytest

from gan_core.config import GanConfig, StepRatio
from gan_core.overrides import merge, parse, validate
from tests.support import tiny_config, tiny_tree


def error_of(tree, *overrides):
    with pytest.raises(ValueError) as caught:
        validate(merge(tree, dict(map(parse, overrides))), GanConfig)
    return str(caught.value)


def test_an_unknown_key_names_itself_and_the_nearest_known_one(tree):
    assert "unknown key 'totl_kimg' (did you mean 'total_kimg'?)" in error_of(tree, "totl_kimg=3")
    assert "unknown key 'optimizer.generator.lrr' (did you mean 'lr'?)" in error_of(tree, "optimizer.generator.lrr=3")
    assert "unknown key 'network.generator.widht'" in error_of(tree, "network.generator.widht=3")
    assert "unknown key 'data.modes'" in error_of(tree, "data.modes=3")


def test_a_misspelt_name_lists_the_choices(tree):
    assert "unknown network name 'dcgn' (did you mean 'dcgan'?); choices: dcgan, mlp, r3gan, sngan, stylegan2" in error_of(
        tree, "network.name=dcgn"
    )
    assert "choices: digits, folder, grid2d, mixture2d, parquet, ring2d, stacked_mnist" in error_of(tree, "data.name=digit")
    assert "choices: f_gan, f_jeffreys" in error_of(tree, "loss.name=wgann")


@pytest.mark.parametrize("ratio", ["0:1", "1:0", "5", "a:b", "5:1:1", "-1:1", "1.5:1", ""])
def test_a_bad_step_ratio_shows_a_good_one(tree, ratio):
    message = error_of(tree, f"step_ratio={ratio}")
    assert "step_ratio" in message
    assert '"5:1"' in message


@pytest.mark.parametrize(("text", "d", "g"), [("1:1", 1, 1), ("5:1", 5, 1), ("1:2", 1, 2), ("12:7", 12, 7)])
def test_a_step_ratio_reads_discriminator_first(text, d, g):
    assert StepRatio.parse(text) == (d, g)
    assert tiny_config(step_ratio=text).ratio == (d, g)


def test_all_problems_are_reported_at_once(tree):
    message = error_of(tree, "batch_size=0", "total_kimg=-1", "nonsense=1")
    assert len(message.splitlines()) == 3
    assert "batch_size: input should be greater than 0, given 0" in message


def test_values_that_are_not_finite_are_refused(tree):
    assert "optimizer.generator.lr" in error_of(tree, "optimizer.generator.lr=.nan")
    assert "total_kimg" in error_of(tree, "total_kimg=.inf")


def test_a_batch_that_ranks_cannot_share_names_batches_that_they_can():
    config = tiny_config(batch_size=100)
    config.require_divisible(4)
    with pytest.raises(ValueError, match="batch_size 100 is not divisible by 8 ranks; try 96 or 104"):
        config.require_divisible(8)
    with pytest.raises(ValueError, match="2 ranks x 3 accumulation steps; try 96 or 102"):
        tiny_config(batch_size=100, accumulation_steps=3).require_divisible(2)


def test_keyword_arguments_of_networks_and_data_are_the_schema():
    config = tiny_config(**{"network__name": "dcgan", "network__generator__width": "32", "data__name": "ring2d", "data__modes": 5})
    assert config.network.generator == {"width": 32, "max_width": 512, "norm": "batch"}
    assert config.data.options["modes"] == 5
    assert config.data.options["radius"] == 1.0


def test_choosing_another_network_drops_the_options_of_the_first():
    tree = merge(tiny_tree(), {"network.name": "dcgan"})
    assert tree["network"] == {"name": "dcgan", "z_dim": 8}
    assert merge(tiny_tree(), {"network.name": "mlp"}) == tiny_tree()


def test_a_config_cannot_be_changed(tree):
    config = validate(tree, GanConfig)
    with pytest.raises(ValueError, match="frozen"):
        config.batch_size = 3
