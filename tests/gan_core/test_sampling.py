import pytest
import torch

from gan_core import distributed, sampling


@pytest.fixture
def as_rank(monkeypatch):
    def pretend(rank, world_size):
        monkeypatch.setattr(distributed, "rank", lambda: rank)
        monkeypatch.setattr(distributed, "world_size", lambda: world_size)

    return pretend


@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_the_shards_of_all_ranks_are_the_global_batch(as_rank, world_size):
    whole = sampling.latents(7, "d/z", 3, batch_size=16, z_dim=5)
    order = sampling.batch_indices(7, "d/real", 3, batch_size=16, dataset_size=21)
    z, indices = [], []
    for rank in range(world_size):
        as_rank(rank, world_size)
        z.append(sampling.latents(7, "d/z", 3, batch_size=16, z_dim=5))
        indices.append(sampling.batch_indices(7, "d/real", 3, batch_size=16, dataset_size=21))
    assert torch.equal(torch.cat(z), whole)
    assert torch.equal(torch.cat(indices), order)
    assert len({len(shard) for shard in z}) == 1


@pytest.mark.parametrize("batch_size", [1, 4, 7, 10, 25])
def test_every_epoch_shows_every_image_once(batch_size):
    steps = range(-(-30 // batch_size))
    order = torch.cat([sampling.batch_indices(0, "d/real", step, batch_size=batch_size, dataset_size=10) for step in steps])[:30]
    first, second, third = order.split(10)
    for epoch in (first, second, third):
        assert epoch.sort().values.tolist() == list(range(10))
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)


def test_seeds_streams_and_steps_give_unrelated_numbers():
    draws = {
        (seed, stream, step): tuple(sampling.latents(seed, stream, step, batch_size=1, z_dim=2)[0].tolist())
        for seed in (0, 1)
        for stream in ("d/z", "g/z")
        for step in (0, 1, 10)
    }
    assert len(set(draws.values())) == len(draws)
    many = torch.stack([sampling.latents(0, "d/z", step, batch_size=8, z_dim=8) for step in range(200)])
    assert many.mean().item() == pytest.approx(0.0, abs=0.03)
    assert many.std().item() == pytest.approx(1.0, abs=0.03)


def test_seeds_never_change_between_versions():
    """A resumed run of an older version must draw the same batches."""
    assert sampling.derive_seed(0, "d/z", 0) == 1272495564966074959
    assert sampling.derive_seed(12, "g/real/epoch", 3) == 5180251755697382034


def test_an_image_seed_gives_one_latent_whatever_is_drawn_around_it():
    together = sampling.latents_of_seeds(0, 40, z_dim=6)
    assert torch.equal(together[33], sampling.latents_of_seeds(33, 1, z_dim=6)[0])
