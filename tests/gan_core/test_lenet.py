import multiprocessing
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gan_core.data import digits
from gan_core.extractors import _training, lenet
from tests.gan_core.test_extractors import CPU, images_of, made_up


def build(dataset, folder, **options):
    return lenet.build(dataset, device=CPU, cache_dir=folder, **options)


def test_digits_of_8x8_are_learnt_to_97_percent_in_seconds(tmp_path):
    extractor = build(digits.load(), tmp_path)
    facts = extractor.facts
    assert (facts["train_count"], facts["held_out_count"]) == (1618, 179)
    assert 0.97 <= facts["test_accuracy"] <= 1.0
    assert lenet.accuracy(extractor, digits.load()) >= 0.99  # most of it trained on
    assert (extractor.dimensions, extractor.num_classes) == (128, 10)


@pytest.mark.parametrize("side", [8, 9, 15, 28, 32])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_small_size_and_both_channel_counts_work(tmp_path, side, channels):
    dataset = made_up(channels=channels, side=side)
    extractor = build(dataset, tmp_path, dimensions=16)
    assert extractor.resize == "none"
    assert extractor(images_of(dataset)).features.shape == (60, 16)
    assert lenet.accuracy(extractor, dataset) == 1.0


def test_large_images_are_reduced_with_anti_aliasing(tmp_path):
    dataset = made_up(side=64)
    extractor = build(dataset, tmp_path)
    assert (extractor.resize, extractor.image_shape) == ("bilinear-antialias", (1, 64, 64))
    stripes = torch.ones(1, 1, 64, 64)
    stripes[..., ::2] = -1.0
    reduced = torch.nn.functional.interpolate(stripes, (32, 32), mode="bilinear", antialias=True)
    assert reduced[..., 2:-2].abs().max() < 1e-6  # stripes of one pixel are grey at half the size
    torch.testing.assert_close(extractor.features(stripes), extractor.network(reduced).features, rtol=1e-6, atol=1e-6)


def test_training_does_not_depend_on_the_caller(tmp_path):
    torch.manual_seed(1)
    plain = build(made_up(), tmp_path / "a").weights_hash
    torch.manual_seed(2)
    threads = torch.get_num_threads()
    torch.set_num_threads(3 - min(threads, 2))
    try:
        with torch.no_grad():
            assert build(made_up(), tmp_path / "b").weights_hash == plain
    finally:
        torch.set_num_threads(threads)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert build(made_up(), tmp_path / "c").weights_hash == plain


def test_it_is_trained_once_and_again_for_other_content_or_another_recipe(tmp_path, monkeypatch):
    first = build(made_up(), tmp_path)
    monkeypatch.setattr(_training, "train", lambda *_, **__: pytest.fail("trained again"))
    again = build(made_up(), tmp_path)
    assert (again.weights_hash, again.facts) == (first.weights_hash, first.facts)
    with pytest.raises(pytest.fail.Exception):
        build(replace(made_up(), content_hash="other"), tmp_path)
    with pytest.raises(pytest.fail.Exception):
        build(made_up(), tmp_path, dimensions=64)
    monkeypatch.setitem(_training.RECIPE, "learning_rate", 1.0)
    with pytest.raises(pytest.fail.Exception):
        build(made_up(), tmp_path)


def test_facts_say_how_good_it_is_and_what_it_was_trained_on(tmp_path):
    facts = build(made_up(), tmp_path).facts
    assert facts["content_hash"] == made_up().content_hash
    assert facts["torch"] == torch.__version__
    assert (facts["train_count"], facts["held_out_count"], facts["test_accuracy"]) == (54, 6, 1.0)
    assert facts["recipe"]["seed"] == 0


def test_held_out_images_are_not_trained_on(tmp_path):
    from gan_core.sampling import held_out_split

    held_out = held_out_split(60, 0.1)[1]
    other = made_up()
    other.images[held_out] = 255 - other.images[held_out]
    assert build(replace(other, content_hash="x"), tmp_path).weights_hash == build(made_up(), tmp_path).weights_hash


def hash_of(folder):
    return build(made_up(), Path(folder)).weights_hash


def test_processes_that_start_together_train_once(tmp_path):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert len(set(pool.map(hash_of, [str(tmp_path)] * 3))) == 1
    assert [name for name in os.listdir(tmp_path) if name.startswith(".writing")] == []
    assert sum(path.is_dir() for path in tmp_path.iterdir()) == 1


def test_a_training_that_fails_leaves_no_cache_behind(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(_training, "train", lambda *_, **__: {"not json": object()})
        with pytest.raises(TypeError):
            build(made_up(), tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == []
    build(made_up(), tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "other weights", "facts"])
def test_a_damaged_cache_is_refused_and_named(tmp_path, damage):
    build(made_up(), tmp_path)
    (folder,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    weights = folder / "weights.safetensors"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "other weights":
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
    else:
        (folder / "facts.json").write_text("{")
    with pytest.raises(ValueError, match=rf"{folder.name} is damaged .*; delete that folder, and it is trained again"):
        build(made_up(), tmp_path)


def test_data_it_cannot_be_trained_on_are_refused(tmp_path):
    def refused(dataset):
        with pytest.raises(ValueError) as caught:
            build(dataset, tmp_path)
        return str(caught.value)

    assert "made_up has none; set data.label_column, or use random_conv" in refused(replace(made_up(), labels=None))
    assert "needs two classes or more, and every label of made_up is 0" in refused(made_up(classes=1))
    assert "needs 20 images or more, and made_up has 9" in refused(made_up(count=9))
    assert "square images of 8 pixels or more, and those of made_up are 7x7" in refused(made_up(side=7))
    assert "images of 1 or 3 channels, and the data set has 2" in refused(made_up(channels=2))
    assert "run from 0 to 2, and num_classes is 2" in refused(replace(made_up(), num_classes=2))
    assert list(tmp_path.iterdir()) == []


def test_a_cache_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cache_dir: cannot create .*; set it to a folder that can be written"):
        build(made_up(), tmp_path / "file" / "folder")


def test_accuracy_needs_labels(tmp_path):
    with pytest.raises(ValueError, match="accuracy needs labels, and made_up has none"):
        lenet.accuracy(build(made_up(), tmp_path), replace(made_up(), labels=None))
