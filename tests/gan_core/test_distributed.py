"""Two real gloo processes against one. A test of averaged gradients must compare with the undivided batch: ranks that agree with
each other can still both be wrong."""

import os
import subprocess
import sys

import pytest
import torch

from gan_core import distributed
from gan_core.metrics import _neighbours, frechet_distance, kernel_distance
from gan_core.regularizers import REGULARIZERS
from tests.gan_core.ranks import CASES, GAMES, OBJECTIVES, STOPPED, free_port, gradients, scores, train
from tests.gan_core.test_trainer import same
from tests.support import prepared_digits

TIMED = ("progress/images_per_second", "progress/device_seconds", "progress/diagnostics_share")


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    folder, port = tmp_path_factory.mktemp("ranks"), free_port()
    command = [sys.executable, "-m", "tests.gan_core.ranks"]
    environment = {**os.environ, "RAYGAN_CACHE": str(folder / "cache")}
    prepared_digits(folder / "cache")
    processes = [subprocess.Popen([*command, str(rank), "2", str(port), str(folder)], env=environment) for rank in range(2)]
    try:
        assert [process.wait(timeout=240) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    kinds = ("rank", "games", "scores", "stopped", "wrapped")
    return {kind: [torch.load(folder / f"{kind}{rank}.pt", weights_only=True) for rank in range(2)] for kind in kinds}


def leaves(value, key=""):
    if isinstance(value, torch.Tensor):
        yield key, value.double()
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from leaves(inner, f"{key}/{name}")


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_of_four_equal_one_rank_of_eight(two_ranks, case):
    one = dict(leaves(train(CASES[case])["state"]))
    two = dict(leaves(two_ranks["rank"][0][case]["state"]))
    assert one.keys() == two.keys()
    for key, expected in one.items():
        scale = expected.abs().max().item()
        assert (two[key] - expected).abs().max().item() <= 1e-6 * scale, key


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_report_what_one_rank_reports(two_ranks, case):
    for one, two in zip(train(CASES[case])["metrics"], two_ranks["rank"][0][case]["metrics"], strict=True):
        for key in one:
            if key not in TIMED:
                assert two[key] == pytest.approx(one[key], rel=1e-6, abs=1e-12), key


@pytest.mark.parametrize("case", [*CASES, "batch norm"])
def test_the_ranks_end_with_equal_bits(two_ranks, case):
    first, second = (dict(leaves(ranks[case]["state"])) for ranks in two_ranks["rank"])
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_gradients_of_two_ranks_equal_those_of_the_whole_batch_for_every_penalty_and_ratio(two_ranks, objective):
    games = [game for game in GAMES if game.startswith(f"{objective} + ")]
    assert len(games) == (2 * len(REGULARIZERS) + 1) * 3
    for game in games:
        one = gradients(GAMES[game])
        assert max(gradient.abs().max() for gradient in one.values()) > 1e-6, game
        for rank in range(2):
            for key, expected in one.items():
                found = two_ranks["games"][rank][game][key]
                assert (found - expected).abs().max() <= 1e-6 * max(expected.abs().max(), 1e-6), (game, key)


@pytest.mark.parametrize("name", STOPPED)
def test_ranks_that_are_stopped_by_one_of_them_and_go_on_have_the_points_and_bits_of_those_that_were_not(two_ranks, name):
    for rank in range(2):
        whole, interrupted = two_ranks["stopped"][rank][name]
        assert (whole["stops"], interrupted["stops"]) == (0, 7 if name == "ada, lazy penalties" else 9)
        assert interrupted["points"] == whole["points"]
        assert same(interrupted["state"], whole["state"])


def test_why_networks_are_not_wrapped_in_ddp(two_ranks):
    """pytorch issue 47562: a penalty reaches parameters through autograd.grad only, and DDP averages nothing, without an error."""
    first, second = two_ranks["wrapped"]
    largest = max(whole.abs().max() for whole in first["whole"])
    apart = max((a - b).abs().max() for a, b in zip(first["mine"], second["mine"], strict=True))
    wrong = max((mine - whole).abs().max() for mine, whole in zip(first["mine"], first["whole"], strict=True))
    assert apart > 0.01 * largest
    assert wrong > 0.01 * largest
    mean = [(a + b) / 2 for a, b in zip(first["mine"], second["mine"], strict=True)]
    for averaged, whole in zip(mean, first["whole"], strict=True):  # which is what average_over_ranks does
        torch.testing.assert_close(averaged, whole, rtol=1e-9, atol=1e-15)


def test_replicas_that_differ_in_one_bit_are_noticed(monkeypatch):
    network = torch.nn.Linear(3, 3)
    ours = distributed._checksum(network)
    network.weight.data[1, 1] = torch.nextafter(network.weight[1, 1], torch.tensor(9.0))
    theirs = distributed._checksum(network)
    assert ours.item() != theirs.item()
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "gather", lambda shard: torch.stack([ours, theirs]))
    with pytest.raises(RuntimeError, match="the ranks' copies of the generator differ"):
        distributed.require_equal_replicas(network, "generator")


def test_swapped_weights_change_the_checksum():
    network = torch.nn.Linear(2, 1, bias=False)
    network.weight.data = torch.tensor([[1.0, 2.0]])
    before = distributed._checksum(network)
    network.weight.data = torch.tensor([[2.0, 1.0]])
    assert distributed._checksum(network).item() != before.item()


def test_buckets_keep_order_and_never_mix_types(monkeypatch):
    monkeypatch.setattr(distributed, "BUCKET_BYTES", 100)
    tensors = [torch.zeros(10), torch.zeros(10), torch.zeros(10), torch.zeros(2).double(), torch.zeros(200), torch.zeros(1)]
    buckets = list(distributed._buckets(tensors))
    assert [len(bucket) for bucket in buckets] == [2, 1, 1, 1, 1]
    assert [id(tensor) for bucket in buckets for tensor in bucket] == [id(tensor) for tensor in tensors]


def test_two_ranks_score_as_one(two_ranks, monkeypatch, tmp_path):
    monkeypatch.setenv("RAYGAN_CACHE", str(tmp_path))
    for module in (_neighbours, frechet_distance, kernel_distance):
        monkeypatch.setattr(module, "BLOCK", 64)
    one = scores(0, 1)
    assert {"fd_pixels", "kid_lenet", "score", "memorisation_pixels", "duplicates_lenet", "classifier_score_lenet"} <= one.keys()
    for found in two_ranks["scores"]:
        assert found == pytest.approx(one, rel=1e-9, abs=1e-12)
