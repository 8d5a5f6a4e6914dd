import pytest
import torch

from gan_core.history import TOGETHER, DivergenceError, History


def told(history, steps, spoiled=None):
    """Steps of two kinds in turn; every third D step has a value more, and every fourth step comes as one tensor."""
    for step in range(1, steps + 1):
        values = {"d/loss": 1.0 / step, "d/penalty": step**0.5} if step % 3 == 0 else {"d/loss": 1.0 / step}
        if step % 4 == 0:
            history.add_vector(tuple(values), torch.tensor(list(values.values())), step)
        else:
            history.add({key: torch.tensor(value) for key, value in values.items()}, step)
        history.add({"g/loss": torch.tensor(float("nan") if step == spoiled else float(step))}, step)


@pytest.mark.parametrize("steps", [1, TOGETHER - 1, TOGETHER, 3 * TOGETHER + 5])
def test_means_are_over_all_steps_whether_their_values_were_tables_already_or_not(steps):
    history = History()
    told(history, steps)
    found = history.read(None)
    losses = torch.tensor([1.0 / step for step in range(1, steps + 1)])
    assert found["d/loss"] == pytest.approx(losses.double().mean().item(), rel=1e-15)
    assert found["g/loss"] == pytest.approx((steps + 1) / 2, rel=1e-15)
    assert next(iter(found)) == "d/loss"
    assert history.read(None) == {}


def test_rows_keep_the_order_of_the_steps_and_reading_them_changes_nothing():
    history, again = History(), History()
    told(history, 2 * TOGETHER + 3)
    state = history.state_dict(None)
    assert [row for part in state if part["keys"] == ["g/loss"] for row in part["rows"].flatten().tolist()] == list(
        range(1, 2 * TOGETHER + 4)
    )
    told(again, 2 * TOGETHER + 3)
    assert history.read(None) == again.read(None)


@pytest.mark.parametrize("step", [2, TOGETHER, TOGETHER + 1, 2 * TOGETHER + 3])
def test_the_step_that_spoils_a_value_is_named(step):
    history = History()
    told(history, 2 * TOGETHER + 3, spoiled=step)
    with pytest.raises(DivergenceError, match=f"g/loss is nan at its step {step};"):
        history.read(None)
