import copy

import pytest
import torch

from gan_core.optimizers import Adam

OPTIONS = [
    {},
    {"fused": True},
    {"foreach": False},
    {"fused": True, "betas": (0.0, 0.99), "eps": 1e-7},
    {"fused": True, "weight_decay": 0.3},
    {"fused": True, "weight_decay": 0.3, "decoupled_weight_decay": True},
    {"fused": True, "amsgrad": True},
    {"fused": True, "maximize": True},
]


def parameters():
    torch.manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape)) for shape in ((3, 4), (5,), ())]


def stepped(optimizer, values, steps):
    for step in range(steps):
        optimizer.zero_grad()
        sum(((value - step) ** 4).sum() for value in values).backward()
        optimizer.step()
    return [value.detach().clone() for value in values]


@pytest.mark.parametrize("options", OPTIONS)
def test_its_steps_are_those_of_pytorchs_adam_to_the_bit(options):
    ours, theirs = parameters(), parameters()
    left = stepped(Adam(ours, lr=0.01, **options), ours, 20)
    right = stepped(torch.optim.Adam(theirs, lr=0.01, **options), theirs, 20)
    assert all(torch.equal(one, other) for one, other in zip(left, right))
    assert not torch.equal(left[0], parameters()[0])


def test_its_state_goes_to_pytorchs_adam_and_back():
    ours, theirs = parameters(), parameters()
    mine, other = Adam(ours, lr=0.01), torch.optim.Adam(theirs, lr=0.5)
    stepped(mine, ours, 3)
    other.load_state_dict(mine.state_dict())
    again = Adam(ours, lr=0.5)
    again.load_state_dict(other.state_dict())
    assert again.param_groups[0]["lr"] == 0.01
    assert all(torch.equal(mine.state[value]["exp_avg_sq"], again.state[value]["exp_avg_sq"]) for value in ours)


def test_a_step_leaves_no_graph_and_keeps_who_was_to_have_gradients():
    values = parameters()
    stepped(Adam(values, lr=0.01), values, 1)
    assert all(value.requires_grad and value.grad_fn is None for value in values)
    assert torch.is_grad_enabled()


def test_a_closure_may_be_given_which_sees_gradients():
    values = parameters()
    optimizer = Adam(values, lr=0.01)

    def closure():
        optimizer.zero_grad()
        with torch.enable_grad():
            loss = sum((value**2).sum() for value in values)
        loss.backward()
        return loss

    assert optimizer.step(closure) > 0


def test_steps_after_a_gradient_was_missing_and_after_loading_are_pytorchs_too():
    ours, theirs = parameters(), parameters()
    left, right = Adam(ours, lr=0.01, fused=True), torch.optim.Adam(theirs, lr=0.01, fused=True)
    for optimizer, values in ((left, ours), (right, theirs)):
        stepped(optimizer, values, 2)
        values[1].grad = None
        optimizer.step()
        stepped(optimizer, values, 2)
        optimizer.load_state_dict(optimizer.state_dict())
        optimizer.param_groups[0]["lr"] = 0.02
        stepped(optimizer, values, 2)
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs))
    assert [left.state[value]["step"].item() for value in ours] == [7.0, 6.0, 7.0]


def test_a_fused_step_with_all_gradients_is_one_call(monkeypatch):
    values = parameters()
    optimizer, calls = Adam(values, lr=0.01, fused=True), []
    stepped(optimizer, values, 1)
    monkeypatch.setattr("gan_core.optimizers._step", lambda *given: calls.append(given))
    stepped(optimizer, values, 1)
    assert not calls
    values[0].grad = None
    optimizer.step()
    assert len(calls) == 1


def test_numbers_of_steps_are_counted_together_and_apart_where_a_gradient_is_missing():
    values = parameters()
    optimizer = Adam(values, lr=0.01, fused=True)
    stepped(optimizer, values, 3)
    steps = [optimizer.state[value]["step"] for value in values]
    assert len({step.untyped_storage().data_ptr() for step in steps}) == 1
    values[1].grad = None
    optimizer.step()
    copied = copy.deepcopy(optimizer)
    stepped(optimizer, values, 2)
    assert [float(optimizer.state[value]["step"]) for value in values] == [6, 5, 6]
    assert sorted(float(state["step"]) for state in copied.state.values()) == [3, 4, 4]
