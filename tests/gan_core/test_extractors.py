import math

import pytest
import torch

from gan_core import registry
from gan_core.data import digits
from gan_core.datatypes import ImageDataset
from gan_core.extractors import pixels, random_conv
from gan_core.extractors._extractor import hash_of
from gan_core.schema import checked_keywords

CPU = torch.device("cpu")
SUPPLIED = frozenset({"device", "cache_dir"})
# Those that need files of their own are in test_inception.py and test_stacked_mnist.py.
WITHOUT_FILES = [name for name in registry.choices("gan_core.extractors") if name not in ("inception", "stacked_lenet")]


def made_up(count=60, channels=1, side=8, classes=3, seed=0):
    """Images whose brightness tells their class."""
    source = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    noise = torch.randint(80, (count, channels, side, side), generator=source)
    images = (noise + labels[:, None, None, None] * (170 // (classes - 1 or 1))).to(torch.uint8)
    return ImageDataset("made_up", images, labels, f"made up {count} {channels} {side} {classes} {seed}", num_classes=classes)


def images_of(dataset, count=None):
    return dataset.batch(torch.arange(count or len(dataset)), CPU, torch.float32, labelled=False).inputs


def build(name, dataset, folder, **options):
    return registry.find("gan_core.extractors", name).build(dataset, device=CPU, cache_dir=folder, **options)


@pytest.mark.parametrize("name", WITHOUT_FILES)
@pytest.mark.parametrize("channels", [1, 3])
def test_features_do_not_depend_on_how_images_are_batched(tmp_path, name, channels):
    dataset = made_up(count=300, channels=channels)
    extractor = build(name, dataset, tmp_path)
    images = images_of(dataset)  # more than AT_ONCE
    whole, parts = extractor(images), [extractor(images[i : i + 1]) for i in range(255, 260)]
    assert whole.features.shape == (300, extractor.dimensions)
    assert not whole.features.requires_grad
    torch.testing.assert_close(whole.features[255:260], torch.cat([part.features for part in parts]), rtol=1e-5, atol=1e-5)
    assert torch.equal(extractor(images).features, whole.features)
    assert torch.equal(extractor.features(images), whole.features)
    if extractor.num_classes:
        assert whole.probabilities.shape == (300, 3)
        torch.testing.assert_close(whole.probabilities.sum(1), torch.ones(300))
        torch.testing.assert_close(whole.probabilities[255:260], torch.cat([part.probabilities for part in parts]), rtol=1e-5, atol=1e-6)
    else:
        assert whole.probabilities is None
        with pytest.raises(ValueError, match=f"extractor {name} gives no class probabilities; lenet and inception do"):
            extractor.probabilities(images)


@pytest.mark.parametrize("name", WITHOUT_FILES)
def test_the_same_build_has_the_same_hash_and_other_sizes_another(tmp_path, name):
    one = build(name, made_up(), tmp_path / "one")
    same = build(name, made_up(), tmp_path / "two")
    other = build(name, made_up(side=12), tmp_path / "one")
    assert one.weights_hash == same.weights_hash
    assert len(one.weights_hash) == 64
    assert one.weights_hash != other.weights_hash
    assert torch.equal(one.features(images_of(made_up())), same.features(images_of(made_up())))
    assert (one.name, one.resize, one.dtype, one.image_shape) == (name, "none", "float32", (1, 8, 8))


@pytest.mark.parametrize("name", ["random_conv", "lenet"])
def test_another_seed_gives_other_weights(tmp_path, name):
    hashes = {build(name, made_up(), tmp_path, seed=seed).weights_hash for seed in (0, 1, 2)}
    assert len(hashes) == 3


@pytest.mark.parametrize("name", WITHOUT_FILES)
def test_building_and_judging_leave_the_caller_s_random_state_and_settings(tmp_path, name):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    precision, threads = torch.get_float32_matmul_precision(), torch.get_num_threads()
    build(name, made_up(), tmp_path)(images_of(made_up()))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_float32_matmul_precision() == precision
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("name", WITHOUT_FILES)
def test_a_caller_s_autocast_does_not_change_features(tmp_path, name):
    extractor, images = build(name, made_up(), tmp_path), images_of(made_up())
    expected = extractor.features(images)
    with torch.autocast("cpu", torch.bfloat16):
        found = extractor.features(images)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


@pytest.mark.parametrize("name", WITHOUT_FILES)
def test_unusable_images_are_refused(tmp_path, name):
    extractor, images = build(name, made_up(), tmp_path), images_of(made_up(), 4)
    with pytest.raises(ValueError, match=rf"{name} was built for images of shape \(1, 8, 8\).*given \(3, 8, 8\)"):
        extractor(images.expand(-1, 3, -1, -1))
    with pytest.raises(ValueError, match=r"given \(1, 9, 9\)"):
        extractor(torch.zeros(2, 1, 9, 9))
    with pytest.raises(ValueError, match="no images; give at least one"):
        extractor(images[:0])
    broken = images.clone()
    broken[2, 0, 0, 0] = math.nan
    with pytest.raises(ValueError, match=r"must lie in \[-1, 1\], given values from nan"):
        extractor(broken)
    with pytest.raises(ValueError, match=r"given values from -3 to .*for images in \[0, 1\] give images \* 2 - 1"):
        extractor(images.clone().fill_(-3.0))
    with pytest.raises(ValueError, match="to inf"):
        extractor(images.clone().fill_(math.inf))
    extractor(images.clone().fill_(1.003))  # rounds to the same PNG as 1


def test_pixels_are_the_images_flattened(tmp_path):
    dataset = made_up(channels=3)
    extractor = pixels.build(dataset, device=CPU, cache_dir=tmp_path)
    assert extractor.dimensions == 3 * 8 * 8
    assert torch.equal(extractor.features(images_of(dataset)), images_of(dataset).flatten(1))


@pytest.mark.parametrize("side", [1, 4, 8, 28, 33])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_random_features_have_the_scale_of_pixels(tmp_path, side, channels):
    images = torch.rand(64, channels, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1
    dataset = ImageDataset("noise", images, None, "noise")
    squares = [
        random_conv.build(dataset, device=CPU, cache_dir=tmp_path, seed=seed, width=16).features(images).square().mean()
        for seed in range(20)
    ]
    # Zeros beyond the border take their part: little of a large image, eight ninths of a single pixel (0.11 was found).
    lowest = 0.05 if side == 1 else 0.4
    assert lowest <= float(torch.stack(squares).mean() / images.square().mean()) <= 1.1


def test_random_features_tell_digits_from_noise_of_the_same_pixel_values(tmp_path):
    dataset = digits.load()
    real = images_of(dataset, 1000)
    order = torch.stack([torch.randperm(64, generator=torch.Generator().manual_seed(i)) for i in range(500)])
    shuffled = real[:500].flatten(1).gather(1, order).reshape(500, 1, 8, 8)
    extractor = random_conv.build(dataset, device=CPU, cache_dir=tmp_path)
    here, there, noise = (extractor.features(images) for images in (real[:500], real[500:], shuffled))
    assert (here.mean(0) - noise.mean(0)).norm() > 5 * (here.mean(0) - there.mean(0)).norm()


def test_the_random_network_of_a_seed_stays_what_it_is(tmp_path):
    """Features of old runs must be found again: a change of this hash needs a new DEFINITION."""
    assert build("random_conv", made_up(), tmp_path).weights_hash.startswith("cc433bb67bbff4e0")


def test_a_hash_depends_on_definition_names_shapes_types_and_values():
    weights = {"b": torch.zeros(2, 3), "a": torch.ones(1)}
    different = [
        hash_of("x", weights),
        hash_of("y", weights),
        hash_of("x", {**weights, "a": torch.zeros(1)}),
        hash_of("x", {"b": torch.zeros(3, 2), "a": torch.ones(1)}),
        hash_of("x", {"b": torch.zeros(2, 3), "c": torch.ones(1)}),
        hash_of("x", {"b": torch.zeros(2, 3).double(), "a": torch.ones(1)}),
    ]
    assert len(set(different)) == len(different)
    assert hash_of("x", {"a": torch.ones(1), "b": torch.zeros(3, 2).T}) == different[0]


def test_options_are_the_config_schema():
    build = registry.find("gan_core.extractors", "random_conv").build
    assert checked_keywords("extractor", build, {"seed": 3}, supplied=SUPPLIED) == {"seed": 3, "width": 32, "dimensions": 128}
    with pytest.raises(ValueError, match=r"unknown key 'extractor\.sed' \(did you mean 'seed'\?\)"):
        checked_keywords("extractor", build, {"sed": 3}, supplied=SUPPLIED)
    with pytest.raises(ValueError, match=r"extractor\.width: input should be greater than 0, given 0"):
        checked_keywords("extractor", build, {"width": 0}, supplied=SUPPLIED)


def test_an_unknown_extractor_is_refused_with_the_choices():
    with pytest.raises(ValueError, match="choices: inception, lenet, pixels, random_conv"):
        registry.find("gan_core.extractors", "vgg")
