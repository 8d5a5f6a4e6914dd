"""Settings that a run starts with, and says of that they were probably not meant."""

import pytest

from gan_core.building import build_networks, load_dataset
from gan_core.cautions import cautions
from gan_core.config import GanConfig
from gan_core.networks import dcgan
from gan_core.overrides import merge, parse, validate


def found(*words):
    tree = {"data": {"name": "digits"}, "network": {"name": "dcgan"}}
    config = validate(merge(tree, dict(parse(word) for word in words)), GanConfig)
    _, discriminator = build_networks(config, load_dataset(config))
    return cautions(config, discriminator)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["loss.name=wasserstein"], "loss.name: wasserstein is a distance only while something bounds the discriminator's slope"),
        (["loss.name=wasserstein", "regularizers.lecam_lambda=1"], "loss.name: wasserstein is a distance only"),
        (["loss.name=mmd"], "loss.name: mmd compares features that can grow"),
        (["network.discriminator.norm=batch"], "network.discriminator.norm: batch has no effect"),
        (["network.discriminator.norm=layer"], "network.discriminator.norm: layer has no effect"),
    ],
)
def test_what_was_probably_not_meant_is_said(words, sentence):
    (only,) = found(*words)
    assert only.startswith(sentence)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["network.discriminator.norm=none"],
        ["loss.name=wasserstein", "regularizers.gp_lambda=10"],
        ["loss.name=wasserstein", "regularizers.clip_weight=0.01"],
        ["loss.name=wasserstein", "regularizers.spectral_norm=true"],
        ["variant=wgan"],
        ["loss.name=mmd", "regularizers.gp_lambda=1"],
        ["network.name=mlp"],
    ],
)
def test_what_was_meant_is_not_talked_about(words):
    assert found(*words) == []


def test_a_norm_that_has_layers_is_not_talked_about():
    config = validate({"data": {"name": "digits"}, "network": {"name": "dcgan", "discriminator": {"norm": "layer"}}}, GanConfig)
    assert cautions(config, dcgan.discriminator(resolution=16, channels=1, num_classes=0, norm="layer")) == []
