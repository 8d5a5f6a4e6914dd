import numpy as np
import pytest
import torch

from gan_core import registry
from gan_core.data import digits, grid2d, mixture2d, ring2d


def test_digits_are_the_1797_of_scikit_learn():
    dataset = digits.load()
    assert dataset.images.shape == (1797, 1, 8, 8)
    assert dataset.images.dtype == torch.uint8
    assert (dataset.images.min(), dataset.images.max()) == (0, 255)
    assert dataset.labels.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert dataset.content_hash == digits.load().content_hash
    assert dataset.num_classes == 10


def test_digits_are_read_as_scikit_learn_reads_them():
    from sklearn.datasets import load_digits

    theirs = load_digits()
    assert np.array_equal(digits.load().images[:, 0].numpy(), np.round(theirs.images * 255 / 16))
    assert np.array_equal(digits.load().labels.numpy(), theirs.target)


def test_a_batch_is_in_minus_one_to_one_and_labelled_only_if_asked():
    dataset = digits.load()
    batch = dataset.batch(torch.tensor([3, 5]), torch.device("cpu"), torch.float32, labelled=True)
    assert (batch.inputs.min(), batch.inputs.max()) == (-1.0, 1.0)
    torch.testing.assert_close(batch.inputs, dataset.images[[3, 5]] / 127.5 - 1)
    assert batch.labels.tolist() == [3, 5]
    assert dataset.batch(torch.tensor([3]), torch.device("cpu"), torch.float64, labelled=False).labels is None


def test_the_ring_has_its_modes_where_they_belong():
    dataset = ring2d.load(modes=8, radius=1.0, standard_deviation=0.01, count=80_000)
    points = dataset.images.flatten(1)
    for mode in range(8):
        mine = points[dataset.labels == mode]
        angle = mode * np.pi / 4
        assert mine.mean(0).tolist() == pytest.approx([np.cos(angle), np.sin(angle)], abs=5e-4)
        assert mine.std(0).tolist() == pytest.approx([0.01, 0.01], rel=0.03)
        assert len(mine) == pytest.approx(10_000, rel=0.05)


def test_the_ring_is_the_same_each_time_and_another_with_another_seed():
    assert ring2d.load(count=10).content_hash == ring2d.load(count=10).content_hash
    assert ring2d.load(count=10).content_hash != ring2d.load(count=10, seed=1).content_hash


@pytest.mark.parametrize("name", registry.choices("gan_core.data"))
def test_every_data_set_has_a_load(name):
    assert callable(registry.find("gan_core.data", name).load)


def test_points_of_equal_modes_are_what_they_always_were():
    assert ring2d.load(count=1000).content_hash.startswith("1e108c926420440b")
    assert grid2d.load(count=1000).content_hash.startswith("2ed260abd7a38f64")
    grid = grid2d.load(count=1000, seed=3)
    again = mixture2d.load(centres=grid.mixture.centres.tolist(), standard_deviation=0.05, count=1000, seed=3)
    assert again.content_hash == grid.content_hash


def test_a_mixture_has_its_weights_and_widths():
    dataset = mixture2d.load(
        centres=[[0.0, 0.0], [5.0, 1.0], [-3.0, 2.0]], standard_deviation=[0.1, 0.5, 1.0], weights=[1.0, 2.0, 5.0], count=80_000
    )
    assert (dataset.labels.bincount() / 80_000).tolist() == pytest.approx([1 / 8, 2 / 8, 5 / 8], abs=0.005)
    for mode, (centre, deviation) in enumerate(zip([[0.0, 0.0], [5.0, 1.0], [-3.0, 2.0]], [0.1, 0.5, 1.0])):
        mine = dataset.images.flatten(1)[dataset.labels == mode]
        assert mine.mean(0).tolist() == pytest.approx(centre, abs=0.02)
        assert mine.std(0).tolist() == pytest.approx([deviation] * 2, rel=0.03)
    assert (dataset.num_classes, dataset.images.shape) == (3, (80_000, 2, 1, 1))


def test_a_mixture_takes_one_width_and_one_weight_for_each_centre():
    with pytest.raises(ValueError, match="data.standard_deviation: 2 for 3 centres; give one for each"):
        mixture2d.load(centres=[[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]], standard_deviation=[0.1, 0.2])
    with pytest.raises(ValueError, match="data.weights: 1 for 2 centres"):
        mixture2d.load(centres=[[0.0, 0.0], [1.0, 1.0]], weights=[1.0])
