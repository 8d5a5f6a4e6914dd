import io
import math
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gan_core.data import parquet, stacked_mnist
from gan_core.extractors import lenet, stacked_lenet
from gan_core.metrics import stacked_mnist as metric
from tests.support import noise_images, write_parquet

MNIST = Path(__file__).parents[3] / "shared" / "data" / "mnist"
CPU = torch.device("cpu")


def write_digits(path, count=40, size=28):
    """Pictures of one grey each, 20 * digit, so that anyone can read them."""
    encoded = []
    for number in range(count):
        buffer = io.BytesIO()
        Image.new("L", (size, size), 20 * (number % 10)).save(buffer, "PNG")
        encoded.append(buffer.getvalue())
    return str(write_parquet(path, encoded, [number % 10 for number in range(count)]))


@pytest.fixture
def path(tmp_path):
    return write_digits(tmp_path / "mnist.parquet")


def read_grey(images):
    """Probabilities of such digits, from the centre pixel."""
    values = (images[:, 0, images.shape[2] // 2, images.shape[3] // 2] + 1.0) * 127.5 / 20.0
    return torch.nn.functional.one_hot(values.round().long(), 10).float()


def stacked(modes, side=4):
    """Images of the given modes, in [-1, 1]."""
    modes = torch.as_tensor(modes)
    digits = torch.stack([modes // 100, modes // 10 % 10, modes % 10], 1)
    return (digits * 20 / 127.5 - 1.0)[:, :, None, None].expand(-1, -1, side, side)


def test_three_digits_are_stacked_and_the_label_is_their_number(path):
    dataset = stacked_mnist.load(path=path, count=3000)
    assert dataset.images.shape == (3000, 3, 28, 28)
    assert dataset.images.dtype == torch.uint8
    digits = dataset.images[:, :, 14, 14].long() // 20
    assert torch.equal(dataset.labels, digits @ torch.tensor([100, 10, 1]))
    assert (dataset.num_classes, dataset.name) == (1000, "stacked_mnist")
    for channel in range(3):  # each digit has 300 expected, standard deviation 16.4
        assert digits[:, channel].bincount(minlength=10).tolist() == pytest.approx([300] * 10, abs=70)
    assert np.corrcoef(digits.T.numpy())[np.triu_indices(3, 1)].tolist() == pytest.approx([0.0] * 3, abs=0.08)
    assert 930 <= len(dataset.labels.unique()) <= 970  # 1000 (1 - e^-3) = 950


def test_at_32_pixels_digits_have_a_border_of_two(path):
    small, large = (stacked_mnist.load(path=path, count=50, resolution=resolution) for resolution in (28, 32))
    assert large.images.shape == (50, 3, 32, 32)
    assert torch.equal(large.images[:, :, 2:-2, 2:-2], small.images)
    assert torch.equal(large.labels, small.labels)
    assert int(large.images.sum(dtype=torch.int64)) == int(small.images.sum(dtype=torch.int64))
    plain = stacked_mnist.digits(path=path, resolution=32)
    assert torch.equal(plain.images[:, :, 2:-2, 2:-2], parquet.load(path=path).images)
    assert plain.content_hash != stacked_mnist.digits(path=path).content_hash == parquet.load(path=path).content_hash
    assert plain.num_classes == 10


def test_it_is_a_function_of_source_count_and_seed(path, tmp_path):
    def content(path=path, cache_dir=None, **options):
        return stacked_mnist.load(path=path, cache_dir=cache_dir, **{"count": 100, **options}).content_hash

    assert content() == content(cache_dir=str(tmp_path / "elsewhere"))
    other = write_digits(tmp_path / "other.parquet", count=39)
    different = [content(), content(seed=1), content(count=101), content(resolution=32), content(path=other)]
    assert len(set(different)) == len(different)


def test_it_is_made_once_and_memory_mapped(path, monkeypatch):
    first = stacked_mnist.load(path=path, count=100)
    monkeypatch.setattr(stacked_mnist, "_stacks", lambda *_: pytest.fail("made again"))
    assert torch.equal(stacked_mnist.load(path=path, count=100).images, first.images)
    monkeypatch.undo()


def content_of(path):
    return stacked_mnist.load(path=path, count=500).content_hash


def test_processes_that_start_together_make_it_once(path):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert len(set(pool.map(content_of, [path] * 3))) == 1
    folder = os.environ["RAYGAN_CACHE"]
    assert sum(os.path.isdir(os.path.join(folder, name)) for name in os.listdir(folder)) == 2  # decoded MNIST, and the stacks


def test_files_that_are_not_mnist_are_refused(tmp_path):
    def refused(path):
        with pytest.raises(ValueError) as caught:
            stacked_mnist.load(path=str(path), count=10)
        return str(caught.value)

    assert "nothing at" in refused(tmp_path / "absent.parquet")
    encoded, _ = noise_images(12)
    assert "has no labels, which Stacked-MNIST needs" in refused(write_parquet(tmp_path / "a.parquet", encoded))
    assert "run to 11, and digits are 0 to 9" in refused(write_parquet(tmp_path / "b.parquet", encoded, list(range(12))))
    assert "is 8x8 and not 28x28" in refused(write_digits(tmp_path / "c.parquet", size=8))


def test_modes_and_divergence_of_known_counts():
    assert metric.evaluate(stacked(torch.arange(1000)), read_grey) == pytest.approx(
        {"modes_stacked_mnist": 1000.0, "reverse_kl_stacked_mnist": 0.0}, abs=1e-12
    )
    assert metric.evaluate(stacked([123] * 50), read_grey) == pytest.approx(
        {"modes_stacked_mnist": 1.0, "reverse_kl_stacked_mnist": math.log(1000)}, abs=1e-12
    )
    found = metric.evaluate(stacked([7, 7, 7, 999]), read_grey)
    expected = 0.75 * math.log(750) + 0.25 * math.log(250)
    assert found == pytest.approx({"modes_stacked_mnist": 2.0, "reverse_kl_stacked_mnist": expected}, abs=1e-12)


def test_the_channels_are_hundreds_tens_and_ones():
    seen = []

    def classifier(images):
        seen.append(images)
        return read_grey(images)

    metric.evaluate(stacked([123]), classifier)
    assert read_grey(seen[0]).argmax(1).tolist() == [1, 2, 3]
    assert seen[0].shape == (3, 1, 4, 4)


def test_its_extractor_reads_each_channel_by_one_classifier_of_digits(path, tmp_path):
    dataset = stacked_mnist.load(path=path, count=200)
    single = lenet.build(stacked_mnist.digits(path=path), device=CPU, cache_dir=tmp_path)
    triple = stacked_lenet.build(dataset, device=CPU, cache_dir=tmp_path, path=path)
    images = dataset.batch(torch.arange(200), CPU, torch.float32, labelled=False).inputs
    features, modes = triple(images)
    channels = [single(images[:, channel : channel + 1]) for channel in range(3)]
    torch.testing.assert_close(features, torch.cat([each.features for each in channels], 1))
    assert features.shape == (200, triple.dimensions)
    torch.testing.assert_close(triple(images[7:9]).features, features[7:9], rtol=1e-5, atol=1e-5)
    assert triple.weights_hash == stacked_lenet.build(dataset, device=CPU, cache_dir=tmp_path / "other", path=path).weights_hash
    assert modes.sum(1).tolist() == pytest.approx([1.0] * 200, abs=1e-5)
    digits = [each.probabilities.argmax(1) for each in channels]
    assert torch.equal(modes.argmax(1), 100 * digits[0] + 10 * digits[1] + digits[2])
    assert float(modes[0, 345]) == pytest.approx(float(channels[0][1][0, 3] * channels[1][1][0, 4] * channels[2][1][0, 5]), rel=1e-5)
    by_images = metric.evaluate(images, single.probabilities)
    assert metric.of_modes(modes.argmax(1)) == by_images
    assert triple.weights_hash != single.weights_hash
    assert triple.facts == single.facts


def test_its_extractor_refuses_other_data(path, tmp_path):
    with pytest.raises(ValueError, match="stacked_lenet is for the data set stacked_mnist, and not for"):
        stacked_lenet.build(parquet.load(path=path), device=CPU, cache_dir=tmp_path, path=path)


@pytest.mark.parametrize("protocol", stacked_mnist.PROTOCOLS.values())
def test_perfect_samples_score_the_bias_of_counting(protocol):
    """E KL(empirical || uniform) = (1000 - 1) / (2 n) + O(n^-2), with standard deviation sqrt(999 / 2) / n."""
    count = protocol.sample_count
    modes = torch.randint(1000, (count,), generator=torch.Generator().manual_seed(3))
    found = metric.evaluate(stacked(modes), read_grey)
    assert found["modes_stacked_mnist"] == 1000.0
    assert found["reverse_kl_stacked_mnist"] == pytest.approx(999 / (2 * count), abs=4 * math.sqrt(999 / 2) / count)
    assert 999 / (2 * count) == pytest.approx({26_000: 0.0192, 25_600: 0.0195}[count], abs=5e-5)


def test_unusable_images_and_classifiers_are_refused():
    with pytest.raises(ValueError, match="no fake_images; give at least one, and 26,000 or 25,600"):
        metric.evaluate(torch.zeros(0, 3, 4, 4), read_grey)
    with pytest.raises(ValueError, match=r"gave \(3, 7\) for 3 digits, not \(3, 10\); give one trained on plain MNIST"):
        metric.evaluate(stacked([1]), lambda images: torch.zeros(len(images), 7))
    with pytest.raises(ValueError, match="the classifier gave NaN or infinite probabilities"):
        metric.evaluate(stacked([1]), lambda images: torch.full((len(images), 10), math.nan))


@pytest.mark.slow
@pytest.mark.skipif(not MNIST.is_dir(), reason=f"needs {MNIST}")
def test_real_digits_score_what_their_frequencies_say():
    """On labels, so without a classifier's errors: the two parts of the 0.0236 nats that the metric's docstring names."""
    labels = stacked_mnist.load(path=str(MNIST / "test.parquet"), count=26_000).labels
    found = metric.evaluate(stacked(labels), read_grey)
    assert found["modes_stacked_mnist"] == 1000.0
    frequencies = parquet.load(path=str(MNIST / "train.parquet")).labels.bincount().double() / 60_000
    uneven = float((frequencies * (frequencies * 10).log()).sum())
    assert uneven == pytest.approx(0.0014, abs=1e-4)
    assert found["reverse_kl_stacked_mnist"] == pytest.approx(999 / 52_000 + 3 * uneven, abs=0.004)


@pytest.mark.slow
@pytest.mark.skipif(not MNIST.is_dir(), reason=f"needs {MNIST}")
def test_lenet_learns_mnist_to_99_percent_and_real_stacks_score_as_real_data_should(tmp_path):
    """One test, because training the classifier is a minute and a half of one core."""
    classifier = lenet.build(stacked_mnist.digits(path=str(MNIST / "train.parquet")), device=CPU, cache_dir=tmp_path)
    assert 0.99 <= classifier.facts["test_accuracy"] <= 0.996
    assert 0.99 <= lenet.accuracy(classifier, stacked_mnist.digits(path=str(MNIST / "test.parquet"))) <= 0.996
    real = stacked_mnist.load(path=str(MNIST / "test.parquet"), count=26_000)
    images = real.batch(torch.arange(26_000), CPU, torch.float32, labelled=False).inputs
    found = metric.evaluate(images, classifier.probabilities)
    assert found["modes_stacked_mnist"] == 1000.0
    assert found["reverse_kl_stacked_mnist"] == pytest.approx(0.0236, abs=0.004)
