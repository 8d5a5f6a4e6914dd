"""Gradients that are sent during backward, against the same ones sent after it: on real gloo ranks, and with a stand-in for the network."""

import os
import subprocess
import sys
import weakref
from itertools import pairwise

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F

from gan_core import distributed
from gan_core.distributed import Reducer, average_over_ranks
from tests.gan_core.ranks import free_port
from tests.gan_core.reducing import CASES
from tests.gan_core.test_trainer import same


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder, port, count = tmp_path_factory.mktemp("ranks"), free_port(), 2
    command = [sys.executable, "-m", "tests.gan_core.reducing"]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo"}
    processes = [subprocess.Popen([*command, str(rank), str(count), str(port), str(folder)], env=environment) for rank in range(count)]
    try:
        assert [process.wait(timeout=120) for process in processes] == [0] * count
    finally:
        for process in processes:
            process.kill()
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(count)]


@pytest.mark.parametrize("case", CASES)
def test_what_is_sent_during_backward_has_the_bits_of_what_is_sent_after_it(ranks, case):
    for found in ranks:
        after, during = found["cases"][case]
        assert same(during["state"], after["state"])
        assert during["state"]["generator"].keys() == after["state"]["generator"].keys()
        if case == "gathering":
            assert not during["early"]
        else:
            # A penalty's own backward does not reach every bias, whose bucket waits, with those after it.
            some = case in ("penalised", "path length")
            assert (max if some else min)(during["early"]) >= 1


def test_ranks_whose_gradients_come_in_different_orders_or_not_at_all_have_the_mean(ranks):
    (first, *_), (second, *_) = (found["uneven"] for found in ranks)
    for found in ranks:
        _, after, during = found["uneven"]
        for mean, late, early in zip([(a + b) / 2 for a, b in zip(first, second, strict=True)], after, during, strict=True):
            assert mean.abs().max() > 0
            assert torch.equal(late, mean)
            assert torch.equal(early, mean)


class Sum(dist.Work):
    """One that is on its way."""

    def __init__(self, wire):
        super().__init__()
        self.wire = wire

    def wait(self):
        self.wire.waited += 1
        return True


class Wire:
    """Stands in for torch.distributed: two ranks with equal values. Remembers what was sent, and whether backward was running."""

    def __init__(self, monkeypatch):
        self.sent, self.waited, self.in_backward = [], 0, False
        monkeypatch.setattr(distributed, "world_size", lambda: 2)
        monkeypatch.setattr(distributed.dist, "all_reduce", self.all_reduce)

    def all_reduce(self, flat, async_op):
        assert async_op
        self.sent.append((self.in_backward, flat.numel()))
        flat.mul_(2.0)
        return Sum(self)

    def backward(self, loss):
        self.in_backward = True
        loss.backward()
        self.in_backward = False


@pytest.fixture
def wire(monkeypatch):
    monkeypatch.setattr(distributed, "BUCKET_BYTES", 100)
    return Wire(monkeypatch)


def chain(*widths):
    """Linear layers without biases, and their parameters."""
    network = nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in pairwise(widths)))
    return network, list(network.parameters())


def test_all_buckets_but_the_last_are_sent_during_backward_from_the_last_layer_to_the_first(wire):
    network, parameters = chain(5, 4, 8, 7, 1)
    reducer, buffer = Reducer(parameters), torch.full((3,), 5.0)
    gradients = torch.autograd.grad(network(torch.ones(1, 5)).sum(), parameters)
    reducer.expect(1)
    wire.backward(network(torch.ones(1, 5)).sum())
    average_over_ranks(parameters, [buffer], reducer)
    assert wire.sent == [(True, 8), (True, 56), (True, 32), (False, 20 + 4)]  # 7 floats take the room of 8, 3 that of 4
    assert wire.waited == 4
    assert all(torch.equal(parameter.grad, gradient) for parameter, gradient in zip(parameters, gradients, strict=True))
    assert all(parameter.grad.data_ptr() % 16 == 0 for parameter in parameters)
    assert torch.equal(buffer, torch.full((3,), 5.0))


def test_a_bucket_that_is_ready_waits_for_those_before_it(wire):
    network, parameters = chain(5, 5, 5, 5)
    reducer = Reducer(parameters)
    reducer.expect(1)
    x = network[1](network[0](torch.ones(1, 5)))  # the last layer, whose bucket is the first, gets no gradient
    wire.backward(x.sum())
    assert wire.sent == []
    average_over_ranks(parameters, [], reducer)
    assert [in_backward for in_backward, _ in wire.sent] == [False] * 3
    assert torch.equal(parameters[2].grad, torch.zeros(5, 5))


def test_accumulated_gradients_are_sent_in_the_last_backward(wire):
    network, parameters = chain(5, 5, 5, 5)
    reducer = Reducer(parameters)
    for count in (1, 2):
        reducer.expect(count)
        for _ in range(count):
            assert wire.sent == []
            wire.backward(network(torch.ones(1, 5)).sum())
        assert wire.sent == [(True, 28), (True, 28)]
        average_over_ranks(parameters, [], reducer)
        wire.sent.clear()


def test_a_step_that_fails_half_way_leaves_nothing_to_the_next_one(wire):
    network, parameters = chain(5, 5, 5, 5)
    reducer = Reducer(parameters)
    gradients = torch.autograd.grad(network(torch.ones(1, 5)).sum(), parameters)
    for _ in range(2):  # the first is never finished
        wire.sent.clear()
        network.zero_grad()
        reducer.expect(1)
        wire.backward(network(torch.ones(1, 5)).sum())
    average_over_ranks(parameters, [], reducer)
    assert wire.sent == [(True, 28), (True, 28), (False, 28)]
    assert all(torch.equal(parameter.grad, gradient) for parameter, gradient in zip(parameters, gradients, strict=True))


def test_more_backwards_than_expected_are_an_error_and_one_that_nobody_expects_sends_nothing(wire):
    network, parameters = chain(5, 5, 5, 5)
    reducer = Reducer(parameters)
    network(torch.ones(1, 5)).sum().backward()
    assert wire.sent == []
    reducer.expect(1)
    network(torch.ones(1, 5)).sum().backward()
    with pytest.raises(AssertionError, match="2 calls of backward, expected 1"):
        network(torch.ones(1, 5)).sum().backward()


def test_gradients_keep_the_strides_of_channels_last_weights(wire):
    weight = nn.Parameter(torch.randn(4, 3, 3, 3).to(memory_format=torch.channels_last))
    last = nn.Parameter(torch.randn(1, 4, 3, 3).to(memory_format=torch.channels_last))
    reducer = Reducer([weight, last])
    images = torch.randn(1, 3, 8, 8)
    gradients = torch.autograd.grad(F.conv2d(F.conv2d(images, weight), last).square().sum(), (weight, last))
    reducer.expect(1)
    wire.backward(F.conv2d(F.conv2d(images, weight), last).square().sum())
    average_over_ranks([weight, last], [], reducer)
    for parameter, gradient in zip((weight, last), gradients, strict=True):
        assert parameter.grad.stride() == parameter.stride()
        assert torch.equal(parameter.grad, gradient)


def test_a_reducer_goes_with_its_owner_and_one_rank_has_no_hooks(wire, monkeypatch):
    network, parameters = chain(5, 5, 5)
    reducer = Reducer(parameters)
    assert parameters[1]._post_accumulate_grad_hooks
    gone = weakref.ref(reducer)
    del reducer
    assert gone() is None
    network(torch.ones(1, 5)).sum().backward()
    monkeypatch.setattr(distributed, "world_size", lambda: 1)
    network, parameters = chain(5, 5, 5)
    reducer = Reducer(parameters)
    assert not any(parameter._post_accumulate_grad_hooks for parameter in parameters)
    network[0](torch.ones(1, 5)).sum().backward()
    gradient = parameters[0].grad
    average_over_ranks(parameters, [], reducer)
    assert parameters[0].grad is gradient
    assert torch.equal(parameters[1].grad, torch.zeros(5, 5))
    assert wire.sent == []
