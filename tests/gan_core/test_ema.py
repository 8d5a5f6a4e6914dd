import pytest
import torch
from torch import nn

from gan_core.ema import Average
from tests.support import tiny_trainer


def filled(value):
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    for tensor in (*network.parameters(), *network.buffers()):
        tensor.data.fill_(value)
    return network


def test_after_one_half_life_half_of_the_old_average_is_left():
    network = filled(0)
    average = Average(network, halflife_kimg=2.0)
    for tensor in network.parameters():
        tensor.data.fill_(1.0)
    for _ in range(20):
        average.update(images=100, images_seen=10**9)
    for tensor in average.network.parameters():
        torch.testing.assert_close(tensor, torch.full_like(tensor, 0.5), rtol=1e-5, atol=0)


def test_early_on_the_half_life_is_a_twentieth_of_the_images_seen():
    network = filled(0)
    average = Average(network, halflife_kimg=1e6)
    network[0].weight.data.fill_(1.0)
    average.update(images=50, images_seen=1000)
    torch.testing.assert_close(average.network[0].weight, torch.full((2, 2), 0.5))


def test_batch_norm_statistics_are_averaged_and_counters_copied():
    network = filled(0)
    average = Average(network, halflife_kimg=0.1)
    network[1].running_mean.fill_(1.0)
    network[1].num_batches_tracked.fill_(7)
    average.update(images=100, images_seen=10**9)
    assert average.network[1].running_mean.tolist() == [0.5, 0.5]
    assert average.network[1].num_batches_tracked.item() == 7


def test_without_a_half_life_the_average_is_the_network():
    network = filled(0)
    average = Average(network, halflife_kimg=None)
    network[0].weight.data.fill_(3.0)
    average.update(images=1, images_seen=1)
    assert average.network[0].weight.unique().tolist() == [3.0]


def test_the_average_takes_no_gradients_and_stays_in_evaluation_mode():
    average = Average(filled(0).train(), halflife_kimg=1.0)
    assert not average.network.training
    assert not any(parameter.requires_grad for parameter in average.network.parameters())


@pytest.mark.parametrize("images", [1, 10, 1000])
def test_the_half_life_does_not_depend_on_how_images_are_cut_into_updates(images):
    network = filled(0)
    average = Average(network, halflife_kimg=1.0)
    network[0].bias.data.fill_(1.0)
    for _ in range(1000 // images):
        average.update(images=images, images_seen=10**9)
    torch.testing.assert_close(average.network[0].bias, torch.full((2,), 0.5), rtol=1e-4, atol=0)


def test_without_averaging_nothing_is_copied_until_somebody_looks():
    trainer = tiny_trainer(ema_halflife_kimg=None)
    kept = [parameter.clone() for parameter in trainer.parts.g.parameters]
    for _ in range(3):
        trainer._round()
    unread = trainer.parts.g_ema._network
    assert all(torch.equal(mine, old) for mine, old in zip(unread.parameters(), kept, strict=True))
    read = trainer.parts.g_ema.network
    assert read is unread
    for mine, theirs in zip(read.parameters(), trainer.parts.g.parameters, strict=True):
        assert torch.equal(mine, theirs)
    trainer._round()
    saved = trainer.state_dict()
    assert all(torch.equal(saved["g_ema"][key], value) for key, value in saved["generator"].items())
