import math

import pytest

from tests.benchmarks.scaling_model import Cluster, Costs, Link, Player, Timing, all_reduce, buckets, exposed, fit, predict, ring, tree

INSIDE, BETWEEN = Link(2e-6, 300e9), Link(5e-6, 40e9)
CLUSTER = Cluster(8, INSIDE, BETWEEN)


def made_up(noise=lambda _: 1.0):
    link, compute = Link(3e-4, 1.5e9), {"small": (2e-3, 1e-4), "large": (5e-3, 7e-3)}
    sizes = {"small": (1e6, 2), "large": (30e6, 9)}
    cases = [(name, ranks, batch) for name in compute for ranks in (1, 2) for batch in (4, 8, 16)]
    timings = []
    for number, (name, ranks, batch) in enumerate(cases):
        (fixed, per_image), (size, count) = compute[name], sizes[name]
        sends = 2 * (ranks - 1) * link.alpha * count + 2 * (ranks - 1) / ranks * size / link.bytes_per_second
        timings.append(Timing(name, ranks, batch, (fixed + per_image * batch + sends) * noise(number), size, count))
    return link, compute, timings


def test_a_fit_finds_the_coefficients_that_timings_were_made_with():
    link, compute, timings = made_up()
    found = fit(timings)
    assert found.link == pytest.approx(link, rel=1e-6)
    for name, each in compute.items():
        assert found.compute[name] == pytest.approx(each, rel=1e-6)
    assert max(map(abs, found.residuals)) < 1e-9
    alone = [Timing(None, 2, 0, 2 * link.alpha + size / link.bytes_per_second, size, 1) for size in (1e3, 1e6, 1e8)]
    assert fit(alone).link == pytest.approx(link, rel=1e-6)
    assert fit(alone + timings).compute["large"] == pytest.approx(compute["large"], rel=1e-6)


def test_noise_of_timings_is_seen_in_the_residuals():
    *_, timings = made_up(lambda number: 1.02 if number % 2 else 0.98)
    assert 0.005 < max(map(abs, fit(timings).residuals)) < 0.05


def test_one_rank_sends_nothing_and_a_message_over_many_costs_twice_its_bytes():
    assert ring(1e9, 1, BETWEEN) == 0.0
    assert tree(1e9, 1, BETWEEN) == 0.0
    assert all_reduce(1e9, 1, CLUSTER) == 0.0
    assert ring(1e12, 4096, Link(0.0, 1e9)) == pytest.approx(2e3, rel=1e-3)
    assert ring(0.0, 512, Link(1e-6, 1e9)) == pytest.approx(1022e-6)
    assert tree(0.0, 512, Link(1e-6, 1e9)) == pytest.approx(18e-6)


def test_one_node_uses_its_own_links_and_a_rank_sends_an_eighth_to_other_nodes():
    assert all_reduce(8e6, 8, CLUSTER) == pytest.approx(14 * 2e-6 + 2 * 7 / 8 * 8e6 / 300e9)
    assert all_reduce(8e6, 16, CLUSTER) == pytest.approx(all_reduce(8e6, 8, CLUSTER) + 2 * 5e-6 + 1e6 / 40e9)


def test_backward_hides_all_but_the_last_bucket_where_links_are_fast_and_nothing_where_there_is_one_bucket():
    cluster = Cluster(1, INSIDE, Link(0.0, 1e9))
    one = all_reduce(1e6, 2, cluster)
    assert exposed(Player((1e6,) * 4, 1.0), 2, 1, cluster, hidden=1.0) == pytest.approx(one)
    assert exposed(Player((1e6,) * 4, 1.0), 2, 1, cluster, hidden=0.0) == pytest.approx(4 * one)
    assert exposed(Player((4e6,), 1.0), 2, 1, cluster, hidden=1.0) == pytest.approx(4 * one)
    assert exposed(Player((1e6,) * 4, 0.0), 2, 1, cluster, hidden=1.0) == pytest.approx(4 * one)
    assert exposed(Player((1e6,) * 4, 1.0), 1, 1, cluster, hidden=1.0) == 0.0


def test_efficiency_falls_with_ranks_until_drawing_for_all_of_them_is_what_takes_the_time():
    costs = Costs(1e-3, 1e-4, 1e-6, (Player(buckets(20e6, 4e6), 3e-5), Player(buckets(8e6, 4e6), 3e-5)), hidden=0.5)
    alone = predict(costs, 1, 32, CLUSTER)
    assert alone.seconds == pytest.approx(1e-3 + 32e-4)
    seconds = [predict(costs, ranks, 32, CLUSTER).seconds for ranks in (1, 2, 8, 16, 64, 512, 4096)]
    assert seconds == sorted(seconds)
    assert alone.seconds < seconds[1]
    assert seconds[-1] == pytest.approx(4096 * 32 * 1e-6)


def test_buckets_are_equal_and_hold_everything():
    assert buckets(10.0, 4.0) == pytest.approx((10 / 3,) * 3)
    assert buckets(3.0, 4.0) == (3.0,)
    assert math.isclose(sum(buckets(123456.0, 1000.0)), 123456.0)
