"""Faults that two workers of `raygan train` meet in their own steps: no memory, and numbers that are none."""

import json
from pathlib import Path

import pytest
import torch

from tests.pipelines import command
from tests.pipelines.command import TrackedRun, require_equal_states, start, write_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # commands take minutes on a busy machine

FAULTY = Path(__file__).parent / "faulty"
TOTAL, SAMPLE, CHECKPOINT, REPORT = 12_800, 6_400, 1_600, 800  # images; steps are of 16
WORDS = [
    f"total_kimg={TOTAL / 1000}",
    f"schedule.sample_kimg={SAMPLE / 1000}",
    *(f"schedule.{what}_kimg={CHECKPOINT / 1000}" for what in ("checkpoint", "evaluate")),
    f"schedule.report_kimg={REPORT / 1000}",
]
SECONDS_AT_MOST = 560  # of a command, on a busy machine
KEYS = ("d/loss", "g/loss", "d/gradient_norm", "quality/kid_pixels")


def begin(folder, *words, faults=None):
    """A training by two workers that are not to fail once."""
    told = {} if faults is None else {"PYTHONPATH": f"{FAULTY}:{FAULTY.parents[2]}", "RAYGAN_TEST_FAULTS": json.dumps(faults)}
    return start(folder, write_config(folder, workers=2), *WORDS, "ray.max_failures=0", *words, **told)


def finish(process):
    return command.finish(process, SECONDS_AT_MOST)


def run_in(folder, out):
    return TrackedRun(folder, out.split("run ", 1)[1].split(":")[0])


def train(folder, *words):
    """To a good end; returns the run, and what was said."""
    status, out, err = finish(start(folder, *words))
    assert status == 0, err
    return run_in(folder, out), err


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quiet")
    return train(folder, write_config(folder, workers=2), *WORDS)[0]


def require_points_once(run, expected):
    assert run.steps("progress/images_seen") == list(range(0, TOTAL + 1, REPORT))
    for key in KEYS:
        assert run.steps(key) == expected.steps(key), key
        assert len(run.steps(key)) >= TOTAL // CHECKPOINT, key
    assert run.pictures() == expected.pictures() == dict.fromkeys((0, SAMPLE, TOTAL), 1)
    assert run.run.info.status == "FINISHED"


def require_as_expected(run, expected):
    require_points_once(run, expected)
    for key in KEYS:
        assert run.values(key) == expected.values(key), key
    require_equal_states(run.final_state(), expected.final_state())


def test_a_rank_out_of_memory_makes_all_of_them_take_half_as_many_images_at_once(tmp_path):
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    whole.mkdir(), halved.mkdir()
    expected, _ = train(whole, write_config(whole, workers=2), *WORDS, "precision=float64")
    process = begin(halved, "precision=float64", faults={"out_of_memory": {"above": 4, "after": 260, "rank": 1}})
    status, out, err = finish(process)
    assert status == 0, err
    run = run_in(halved, out)
    said = (
        "memory did not suffice: each worker takes 4 images at once, as accumulation_steps=2 would have it (config: 1). "
        "The batch stays 16; the result is the same, for gradients are accumulated"
    )
    assert err.count(said) == 1
    assert run.run.data.tags["raygan.micro_batch"] == said
    assert err.count("rank 1 is out of memory; the workers start again with smaller parts of the batch") == 1
    assert err.count("continuing from the checkpoint at 1.6 kimg") == 1
    require_points_once(run, expected)
    for key in KEYS:
        assert run.values(key) == pytest.approx(expected.values(key), rel=1e-9), key
    mine, theirs = run.final_state(), expected.final_state()
    assert (mine["config"]["batch_size"], mine["config"]["accumulation_steps"], mine["d_steps"]) == ("16", "1", TOTAL // 16)
    for name in ("generator", "discriminator", "g_ema"):
        for key, value in theirs[name].items():
            assert torch.allclose(mine[name][key], value, rtol=1e-9, atol=1e-9), (name, key)


def test_where_the_batch_cannot_be_divided_the_group_starts_once_more_and_gives_up(tmp_path):
    process = begin(tmp_path, "loss.name=mmd", faults={"out_of_memory": {"above": 0, "after": 100, "rank": 1}})
    status, out, err = finish(process)
    assert status == 1
    assert "rank 1 on " in err and "is out of memory with 8 images at once" in err
    assert "the loss 'mmd' compares samples across the batch, which cannot be divided; take a smaller batch_size" in err
    assert "start again with other settings: raygan train --from-run" in err
    assert "Traceback" not in err
    assert run_in(tmp_path, out).run.info.status == "FAILED"


def test_a_passing_nan_costs_one_way_back_and_leaves_no_trace(tmp_path, expected):
    fault = {"d_step": 140, "times": 1, "marker": str(tmp_path / "struck"), "rank": 1}
    status, out, err = finish(begin(tmp_path, faults={"nan_at": [fault]}))
    assert status == 0, err
    run = run_in(tmp_path, out)
    back = "d/loss is nan at its step 141: going back to the checkpoint at 1.6 kimg, try 1 of 2"
    assert (err.count(back), err.count("going back to")) == (1, 1)
    assert run.run.data.tags["raygan.rollback"] == back
    assert "look at rank 1 on " in run.run.data.tags["raygan.healed"]
    require_as_expected(run, expected)


@pytest.mark.parametrize(
    ("places", "rollbacks", "verdict"), [([140, 140], 3, "it came at the same step"), ([140, 120], 1, "2 tries ended")]
)
def test_a_nan_that_stays_ends_the_run_with_a_diagnosis_after_the_tries_allowed(tmp_path, expected, places, rollbacks, verdict):
    first, second = (str(tmp_path / name) for name in ("first", "second"))
    faults = [
        {"d_step": places[0], "times": 1, "marker": first},
        {"d_step": places[1], "times": 1, "marker": second, "once": first},
    ]
    if places[0] == places[1]:
        faults = [{"d_step": places[0]}]
    status, out, err = finish(begin(tmp_path, f"ray.max_rollbacks={rollbacks}", faults={"nan_at": faults}))
    assert status == 1
    assert err.count("going back to the checkpoint at 1.6 kimg") == 1
    assert f"failed: d/loss is nan at its step {places[1] + 1}; the last good checkpoint is at images_seen 1,600" in err
    assert "In the steps before: d/loss " in err
    assert verdict in err
    assert "start again with other settings: raygan train --from-run" in err
    assert "Traceback" not in err
    run = run_in(tmp_path, out)
    assert run.run.info.status == "FAILED"
    before = {step: value for step, value in expected.values("d/loss").items() if step < 16 * places[1]}
    assert run.values("d/loss") == before
    assert list(before) == [800, 1600]
