"""The campaign's own judgement: what it must find, it finds, and the same seed makes the same campaign."""

import json

import pytest
import torch

from tests.chaos import campaign, report
from tests.chaos.judge import DOUBLED, LOST, STATUS, VALUE, WEIGHT, Left, compare


def left(**changes):
    """What a small run left, with changes."""
    points = {
        "d/loss": [(16, 0.5), (32, float("nan"))],
        "progress/images_per_second": [(16, 100.0), (32, 90.0)],
        "startup/ray_seconds": [(0, 3.0)],
    }
    weights = {"a.weight": torch.ones(2, 2)}
    optimizer = {"state": {0: {"step": torch.tensor(2.0)}}, "param_groups": [{"lr": 0.1, "betas": (0.0, 0.9)}]}
    state = {
        "generator": weights,
        "discriminator": weights,
        "g_ema": weights,
        "generator_optimizer": optimizer,
        "discriminator_optimizer": optimizer,
    }
    return Left(**{"points": points, "pictures": {0: 1, 32: 1}, "state": state, "status": "FINISHED", **changes})


def points(key, value):
    return {"points": {**left().points, key: value}}


def state(key, value):
    return {"state": {**left().state, key: value}}


def test_what_an_undisturbed_run_leaves_has_no_findings():
    faster = left(**points("progress/images_per_second", [(16, 50.0), (32, 60.0)]))
    resumed = left(points={key: value for key, value in left().points.items() if key != "startup/ray_seconds"})
    another_machine = left(**points("system/node1/cpu_percent", [(16, 50.0)]))
    for run in (left(), faster, resumed, another_machine):
        assert compare(run, left(), exact=True) == []


@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        (points("d/loss", [(16, 0.5)]), LOST, "d/loss has no point at 32"),
        (points("d/loss", []), LOST, "d/loss has no point at 16"),
        (points("d/loss", [(16, 0.5), (16, 0.5), (32, float("nan"))]), DOUBLED, "d/loss has 2 points at 16"),
        (points("d/loss", [(16, 0.5), (24, 0.5), (32, float("nan"))]), DOUBLED, "d/loss has a point at 24 that is not due"),
        (points("d/loss", [(16, 0.5 + 2**-53), (32, float("nan"))]), VALUE, "d/loss is 0.5000000000000001 at 16, not 0.5"),
        (points("d/loss", [(16, 0.5), (32, 0.0)]), VALUE, "d/loss is 0.0 at 32, not nan"),
        (points("progress/images_per_second", [(16, 1.0), (32, 1.0), (32, 2.0)]), DOUBLED, "progress/images_per_second has 2 points at 32"),
        (points("system/node1/cpu_percent", [(16, 1.0), (16, 1.0)]), DOUBLED, "system/node1/cpu_percent has 2 points at 16"),
        ({"pictures": {0: 1}}, LOST, "no picture at 32"),
        ({"pictures": {0: 1, 32: 2}}, DOUBLED, "2 pictures at 32"),
        ({"pictures": {0: 1, 16: 1, 32: 1}}, DOUBLED, "1 pictures at 16"),
        ({"status": "RUNNING"}, STATUS, "the status is RUNNING, not FINISHED"),
        (
            state("generator", {"a.weight": torch.ones(2, 2) + torch.eye(2) * 2**-23}),
            WEIGHT,
            "generator differs: a.weight: largest difference",
        ),
        (
            state("g_ema", {"a.weight": torch.ones(2, 2).double()}),
            WEIGHT,
            "g_ema differs: a.weight: torch.float64 (2, 2), not torch.float32",
        ),
        (state("g_ema", {}), WEIGHT, "g_ema differs: keys ['a.weight']"),
    ],
)
def test_the_comparer_finds(changes, kind, said):
    found = compare(left(**changes), left(), exact=True)
    assert kind in {finding.kind for finding in found}
    assert [finding for finding in found if finding.said.startswith(said)], found


def test_rounding_is_forgiven_where_the_order_of_summation_differs_and_no_more():
    near = left(**points("d/loss", [(16, 0.5 + 1e-11), (32, float("nan"))]))
    far = left(**points("d/loss", [(16, 0.5 + 1e-8), (32, float("nan"))]))
    assert compare(near, left(), exact=False) == []
    assert [finding.kind for finding in compare(far, left(), exact=False)] == [VALUE]
    assert [finding.kind for finding in compare(near, left(), exact=True)] == [VALUE]


def test_a_seed_makes_one_campaign_with_every_kind_of_fault():
    planned = campaign.plan(7, 40, with_machines=True)
    assert planned == campaign.plan(7, 40, with_machines=True) != campaign.plan(8, 40, with_machines=True)
    struck = [(scenario.stage, strike.kind) for scenario in planned for strike in scenario.strikes]
    assert len(struck) == 40
    assert set(struck) == {(stage, kind) for stage, names in campaign.kinds(with_machines=True).items() for kind in names}
    for scenario in planned:
        moments = [strike.at for strike in scenario.strikes]
        assert moments == sorted(moments)
        assert all(campaign.EARLIEST <= moment <= campaign.LATEST for moment in moments)
    without = campaign.plan(7, 30, with_machines=False)
    assert len([strike for scenario in without for strike in scenario.strikes]) == 30
    assert "machines" not in {scenario.stage for scenario in without}


def test_an_aborted_campaign_goes_on_and_another_one_is_refused(tmp_path):
    log = tmp_path / "log"
    assert campaign.read(log, 7) == []
    line = {"scenario": 0, "kind": "node lost"}
    log.write_text(f"{json.dumps({'seed': 7})}\n{json.dumps(line)}\n")
    assert campaign.read(log, 7) == [line]
    with pytest.raises(ValueError, match="is of a campaign with seed 7, not 8"):
        campaign.read(log, 8)


def test_the_table_counts_what_was_found_once_for_each_run():
    scenario = campaign.plan(7, 30, with_machines=False)[0]
    struck = [campaign.Struck(strike, "done", struck=True) for strike in scenario.strikes]
    found = compare(left(pictures={0: 1}), left(), exact=True)
    text = report.table(list(campaign.lines(scenario, struck, found, 12.3)), seed=7, hardware="none")
    assert f"{len(struck)} faults over 1 trainings and sweeps, 0 without a finding" in text
    assert "Found: 1 lost, 0 doubled, 0 value, 0 weights, 0 status, 0 hang, 0 process." in text
    assert text.count("| 12 |") == len(struck)
