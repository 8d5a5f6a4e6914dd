import pytest

from gan_core.config import GanConfig
from gan_core.losses import LOSSES
from gan_core.overrides import flatten, merge, parse, unflatten, validate
from gan_core.regularizers import REGULARIZERS
from gan_core.variants import OWNED, VARIANTS
from tests.gan_core.test_config import error_of
from tests.support import tiny_config, tiny_trainer, tiny_tree


def with_overrides(tree, *overrides):
    return validate(merge(tree, dict(map(parse, overrides))), GanConfig)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_trains(name):
    trainer = tiny_trainer(variant=name)
    reports = []
    trainer.run(reports.append)
    assert reports[-1].done
    assert trainer.config.loss.name == VARIANTS[name]["loss"]["name"]


def test_there_is_a_variant_for_every_f_divergence():
    assert {name for name in LOSSES if name.startswith("f_")} == {name for name in VARIANTS if name.startswith("f_")}


def test_the_papers_settings_are_those_of_the_papers():
    gp = tiny_config(variant="wgan_gp")
    assert (gp.loss.name, gp.step_ratio, gp.regularizers.gp_lambda) == ("wasserstein", "5:1", 10.0)
    assert (gp.optimizer.generator.beta1, gp.optimizer.discriminator.beta2) == (0.0, 0.9)
    assert tiny_config(variant="wgan").regularizers.clip_weight == 0.01
    assert tiny_config(variant="sngan_hinge").regularizers.spectral_norm
    r3gan = tiny_config(variant="r3gan").regularizers
    assert r3gan.in_force == ["r1", "r2"]
    assert r3gan.interval("r1") == r3gan.interval("r2") == 1


def test_an_override_wins_over_the_variant_and_the_variant_over_the_file():
    tree = tiny_tree(loss__name="minimax", step_ratio="1:2", regularizers__lecam_lambda=0.5)
    config = with_overrides(tree, "variant=wgan_gp", "regularizers.gp_lambda=3", "step_ratio=2:1")
    assert (config.loss.name, config.step_ratio) == ("wasserstein", "2:1")
    assert config.regularizers.gp_lambda == 3.0
    assert config.regularizers.lecam_lambda == 0.0


def test_another_variant_leaves_nothing_of_the_old_one():
    old = unflatten(flatten(tiny_config(variant="wgan_gp")))
    new = with_overrides(old, "variant=dcgan")
    assert flatten(new) == flatten(tiny_config(variant="dcgan"))


def test_no_variant_leaves_nothing_of_the_old_one():
    old = unflatten(flatten(tiny_config(variant="wgan_gp")))
    assert flatten(with_overrides(old, "variant=null", "loss.name=hinge")) == flatten(tiny_config(loss__name="hinge"))


@pytest.mark.parametrize("name", VARIANTS)
def test_a_resolved_variant_reads_back_as_itself(name):
    config = tiny_config(variant=name)
    assert validate(unflatten(flatten(config)), GanConfig) == config


def test_every_variant_sets_the_same_keys():
    def keys(tree, above=""):
        return {f"{above}{key}" for key in tree} | {k for key, v in tree.items() if isinstance(v, dict) for k in keys(v, f"{above}{key}.")}

    common = {frozenset(key for key in keys(preset) if not key.startswith("regularizers.")) for preset in VARIANTS.values()}
    assert len(common) == 1
    leaves = {key for key in next(iter(common)) if key not in ("optimizer", "optimizer.generator", "optimizer.discriminator")}
    assert {key for key in leaves if not key.startswith("loss.")} == set(OWNED)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["variant=wgan_pg"], "unknown variant name 'wgan_pg' (did you mean 'wgan_gp'?)"),
        (["variant=wgan_gp", "loss.name=hinge"], "the variant 'wgan_gp' has the loss 'wasserstein', given 'hinge'; set variant=null"),
        (["loss.generator_objective=alternative"], "the loss 'non_saturating' has one objective only; those with an alternative: f_kl"),
        (["regularizers.r1_interval=16"], "regularizers.r1_interval has no effect, because regularizers.r1_gamma is 0"),
        (["regularizers.r1_gama=1"], "unknown key 'regularizers.r1_gama' (did you mean 'r1_gamma'?)"),
        (["regularizers.gp_lambda=-1"], "regularizers.gp_lambda: input should be greater than or equal to 0, given -1"),
        (["network.packing=2", "network.conditional=true"], "network.packing: packed images would need one class"),
        (["loss.name=mmd", "network.conditional=true"], "network.conditional: the loss 'mmd' reads features that know no classes"),
        (["regularizers.clip_weight=0.1", "regularizers.spectral_norm=true"], "spectral_norm rescales what is clipped"),
        (["loss.name=mmd", "accumulation_steps=2"], "the loss 'mmd' compares samples across the batch"),
    ],
)
def test_settings_that_cannot_be_are_refused(overrides, said):
    assert said in error_of(tiny_tree(), *overrides)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"data__name": "ring2d", "data__count": 100, "network__generator__output": "linear", "regularizers__bcr_lambda": 1.0},
            "regularizers.bcr_lambda: images of 1 pixels cannot be shifted; it needs at least 8",
        ),
        ({"network__packing": 3}, "batch_size 16 is not divisible by 1 ranks x 3 packed images; try 15 or 18"),
        ({"loss__name": "mmd", "network__packing": 16}, "the loss mmd compares samples, and needs 2 at least"),
    ],
)
def test_what_does_not_fit_data_or_ranks_is_refused(options, said):
    with pytest.raises(ValueError) as caught:
        tiny_trainer(**options)
    assert said in str(caught.value)


@pytest.mark.parametrize("name", ["r1", "r2", "gp", "gp_one_sided", "gp_zero_centred", "dragan"])
def test_a_gradient_penalty_and_batch_norm_in_the_discriminator_are_refused(name, tmp_path):
    from tests.support import noise_images, write_parquet

    path = write_parquet(tmp_path / "noise.parquet", noise_images(40, size=16)[0])
    options = {"data__name": "parquet", "data__path": str(path), "data__resolution": 16, "data__channels": 1, "network__name": "dcgan"}
    narrow = {"network__generator__width": 4, "network__discriminator__width": 4}
    key = REGULARIZERS[name].weight_key
    with pytest.raises(ValueError) as caught:
        tiny_trainer(**options, **narrow, **{f"regularizers__{key}": 1.0})
    assert f"regularizers.{key}: the discriminator has batch norm" in str(caught.value)
    tiny_trainer(**options, **narrow, **{f"regularizers__{key}": 1.0, "network__discriminator__norm": "layer"})
