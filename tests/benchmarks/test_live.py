"""Memory accounting on networks small enough to count by hand."""

import math

import torch
from torch import nn

from tests.benchmarks import live


def two_layers():
    return nn.Sequential(nn.Linear(100, 200, bias=False), nn.ReLU(), nn.Linear(200, 10, bias=False))


def test_the_peak_of_a_backward_pass_is_what_a_hand_counts():
    network, batch = two_layers(), torch.randn(50, 100)
    following = live.Live(network.parameters())
    following.name(network.parameters(), "parameters")
    following.name([batch], "batch")
    with following, following.saving(), following.phase("step"):
        loss = network(batch).sum()
        with following.phase("backward"):
            loss.backward()
    parameters, inputs, hidden = 4 * (100 * 200 + 200 * 10), 4 * 50 * 100, 4 * 50 * 200
    # Forward: parameters, the batch (saved too, but named first), and the hidden layer before and after the ReLU. The one before is freed
    # once the ReLU is done; the one after is saved by it and by the next layer alike, and counts once.
    peak = following.peaks["step"]
    assert peak.total == parameters + inputs + 2 * hidden
    assert peak.kinds["parameters"] == parameters and peak.kinds["batch"] == inputs
    # Backward, at the ReLU's: the batch, the hidden layer that the ReLU saved, its slopes before and after, the second weight's gradient,
    # and the loss with the slope of 1 that all began with.
    peak = following.peaks["backward"]
    assert peak.total == parameters + inputs + 3 * hidden + 4 * 200 * 10 + 2 * 4
    assert following.most_saved == {"outside": 0, "step": hidden, "backward": hidden}
    assert peak.kinds[live.SAVED] == hidden and peak.kinds[live.GRADIENTS] == 4 * 200 * 10
    assert peak.total == sum(peak.kinds.values())
    assert sum(peak.operators.values()) == peak.kinds["transient"]


def test_a_storage_counts_once_and_until_it_is_gone():
    following = live.Live([])
    with following:
        whole = torch.zeros(1000)
        part, same = whole[10:20], whole.view(10, 100)
        assert following.total == 4000
        del whole, part
        assert following.total == 4000
        del same
        assert following.total == 0
        torch.zeros(10)
    assert following.peaks["outside"].total == 4000


def test_gradients_moments_and_the_rest_are_told_apart():
    network = nn.Linear(30, 40, bias=False)
    adam = torch.optim.Adam(network.parameters(), fused=True)
    following = live.Live(network.parameters())
    following.name(network.parameters(), "parameters")
    with following:
        network(torch.zeros(5, 30)).sum().backward()
        adam.step()
        following.name([adam.state[network.weight][key] for key in ("exp_avg", "exp_avg_sq")], "moments")
        with following.phase("after"):
            pass
    weights = 4 * 30 * 40
    kinds = following.peaks["after"].kinds
    assert (kinds["parameters"], kinds[live.GRADIENTS], kinds["moments"]) == (weights, weights, 2 * weights)
    assert following.peaks["after"].total == 4 * weights + 4  # and the optimizer's count of steps


def test_the_allocator_tells_the_peak_of_each_phase():
    peaks = {}
    with live.allocated(peaks):
        kept = torch.zeros(250_000)
        with torch.profiler.record_function("phase a"):
            more = torch.zeros(500_000)
            del more
        with torch.profiler.record_function("phase b"):
            torch.zeros(250_000)
        del kept
    assert {name: held[:2] for name, held in peaks.items()} == {"phase a": (3_000_000, 0), "phase b": (2_000_000, 0)}


def test_what_an_operator_takes_and_gives_back_itself_is_workspace():
    weights = torch.randn(300, 300)
    peaks = {}
    with live.allocated(peaks), torch.profiler.record_function("phase median"):
        values = weights.t().median(1)  # sorts a copy of its own
    assert peaks["phase median"].operator == "aten::median"
    assert peaks["phase median"].total == peaks["phase median"].workspace + 300 * (4 + 8)
    assert 4 * 300 * 300 <= peaks["phase median"].workspace <= 1.1 * 4 * 300 * 300
    assert values.values.shape == (300,)


def test_a_phase_begins_with_what_lies_there_and_an_inner_one_is_not_the_outer_one_s():
    block = live.Allocation
    blocks = [
        block(1, math.inf, 100, None, None),
        block(5, 6, 1000, 0, 0),
        block(8, math.inf, 50, 1, None),
        block(12, math.inf, 7, None, None),
    ]
    found = live.peak_of_phases(blocks, [(2, 9, "outer"), (4, 7, "inner"), (10, 11, "last")], ["sort", "add"])
    assert found == {"outer": (150, 0, ""), "inner": (1100, 1000, "sort"), "last": (150, 0, "")}
