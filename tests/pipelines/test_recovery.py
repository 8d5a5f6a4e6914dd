"""A rank that meets what its own steps can meet, in this process: no memory, and numbers that are not finite."""

from contextlib import contextmanager

import pytest
import torch

from gan_core import steps, taking
from tests.pipelines.attempts import Run, require_undisturbed, store
from tests.pipelines.command import require_equal_states
from tests.pipelines.faulty import sitecustomize as faults


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    return store(tmp_path_factory.mktemp("mlflow"))


@pytest.fixture(scope="module")
def undisturbed(client, tmp_path_factory):
    run = Run(client, tmp_path_factory.mktemp("quiet"))
    assert run.go()["failure"] == ""
    return run


@pytest.fixture
def run(client, tmp_path):
    return Run(client, tmp_path)


@pytest.fixture
def struck(monkeypatch):
    """Faults while a block lasts."""

    @contextmanager
    def strike(**wanted):
        with monkeypatch.context() as patch:
            if "out_of_memory" in wanted:
                patch.setattr(steps, "fakes", faults.short_of_memory(steps.fakes, wanted["out_of_memory"]))
            if "nan_at" in wanted:
                patch.setattr(taking, "discriminator_step", faults.poisoned(taking.discriminator_step, wanted["nan_at"]))
            yield

    return strike


def require_near(mine, theirs, tolerance=1e-9):
    for name in ("generator", "discriminator", "g_ema"):
        for key, value in theirs[name].items():
            assert torch.allclose(mine[name][key].double(), value.double(), rtol=tolerance, atol=tolerance), (name, key)


GAMES = {
    "mlp, ada, lazy penalties": {
        "augment__name": "ada",
        "augment__full_kimg": 0.1,
        "regularizers__r1_gamma": 1.0,
        "regularizers__r1_interval": 3,
        "regularizers__lecam_lambda": 0.3,
    },
    "dcgan": {
        "network__name": "dcgan",
        "network__generator": {"width": 4, "norm": "layer"},
        "network__discriminator": {"width": 4, "norm": "none"},
        "step_ratio": "2:1",
    },
}


@pytest.mark.parametrize("name", [pytest.param("mlp, ada, lazy penalties", marks=pytest.mark.slow), "dcgan"])
def test_a_run_out_of_memory_goes_on_with_half_of_the_images_at_once(client, tmp_path, struck, name):
    options = {"precision": "float64", **GAMES[name]}
    whole, halved = Run(client, tmp_path, **options), Run(client, tmp_path, **options, accumulation_steps=2)
    at_once, later = Run(client, tmp_path, **options), Run(client, tmp_path, **options)
    for run in (whole, halved):
        assert run.go()["failure"] == ""
    with struck(out_of_memory={"above": 8, "after": 5}):  # in the middle of a round, before the first checkpoint
        assert at_once.go()["failure"] == ""
    with struck(out_of_memory={"above": 8, "after": 47}):  # after it
        assert later.go()["failure"] == ""
    require_equal_states(at_once.state(), halved.state())
    require_near(at_once.state(), whole.state())
    require_near(later.state(), whole.state())
    for run in (at_once, later):
        assert {key: [step for step, _ in points] for key, points in run.points().items()} == {
            key: [step for step, _ in points] for key, points in whole.points().items()
        }
        assert run.state()["config"]["accumulation_steps"] == "1"
        said = run.tags()["raygan.micro_batch"]
        assert run.said.count(said) == 1
        assert said == (
            "memory did not suffice: each worker takes 8 images at once, as accumulation_steps=2 would have it (config: 1). "
            "The batch stays 16; the result is the same, for gradients are accumulated"
        )


def test_what_was_found_out_about_memory_holds_for_those_who_resume(client, tmp_path, struck):
    run = Run(client, tmp_path, network__name="dcgan", network__generator={"width": 4}, network__discriminator={"width": 4})
    with struck(out_of_memory={"above": 4}):
        assert run.go()["failure"] == ""
        assert run.recalled() == {"micro_batch": 4}
        run.change(total_kimg=0.8)
        assert run.go()["failure"] == ""
    (said,) = [sentence for sentence in run.said if "memory" in sentence]
    assert "4 images at once, as accumulation_steps=4 would have it (config: 1)" in said
    assert said.endswith("gradients are accumulated; batch norm sees fewer images at once, which changes its statistics")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, "1 images at once cannot be fewer; take a smaller batch_size or network"),
        ({"network__packing": 4}, "4 images at once, which network.packing=4 and groups of 1 keep together, cannot be fewer"),
        ({"loss__name": "mmd"}, "the loss 'mmd' compares samples across the batch, which cannot be divided; take a smaller batch_size"),
    ],
)
def test_where_nothing_can_be_halved_the_run_ends_and_says_what_would_help(client, tmp_path, struck, options, reason):
    run = Run(client, tmp_path, **options)
    with struck(out_of_memory={"above": 0}):
        outcome = run.go()
    assert reason in outcome["failure"]
    assert "is out of memory with " in outcome["failure"]
    assert "Tried to allocate 20.00 MiB" in outcome["failure"]
    assert not outcome["resumable"]


def test_a_passing_nan_is_healed_and_leaves_no_trace(run, undisturbed, struck, tmp_path):
    with struck(nan_at=[{"d_step": 26, "times": 1, "marker": str(tmp_path / "marker")}]):
        assert run.go()["failure"] == ""
    require_undisturbed(run, undisturbed)
    tags = run.tags()
    assert tags["raygan.rollback"] == "d/loss is nan at its step 27: going back to the checkpoint at 0.3 kimg, try 1 of 2"
    assert tags["raygan.healed"].startswith("d/loss is nan at its step 27 did not come again: a passing fault, which sound hardware")
    assert "rank 0 on " in tags["raygan.healed"]
    assert tags["raygan.rollback"] in run.said
    assert tags["raygan.healed"] in run.said


def test_a_nan_that_comes_again_at_the_same_step_is_put_down_to_the_settings(run, struck):
    with struck(nan_at=[{"d_step": 26}]):
        outcome = run.go()
    failure = outcome["failure"]
    assert failure.startswith("d/loss is nan at its step 27; the last good checkpoint is at images_seen 320. A lower optimizer.*.lr")
    assert "In the steps before: d/loss " in failure
    assert failure.count("gradient_norm") >= 2
    assert failure.endswith("it came at the same step: it is the settings, not the machine, and no further try was made")
    assert not outcome["resumable"]
    assert [step for step, _ in run.points()["d/loss"]] == [64, 128, 160, 192, 256, 320, 384]
    assert sum("going back to" in sentence for sentence in run.said) == 1


def test_a_nan_that_comes_elsewhere_each_time_is_put_down_to_the_hardware(run, struck, tmp_path):
    first, second, third = (str(tmp_path / name) for name in "abc")
    places = [
        {"d_step": 29, "times": 1, "marker": first},
        {"d_step": 25, "times": 1, "marker": second, "once": first},
        {"d_step": 22, "times": 1, "marker": third, "once": second},
    ]
    with struck(nan_at=places):
        failure = run.go()["failure"]
    assert "3 tries ended differently (before: d/loss is nan at its step 30; d/loss is nan at its step 26)" in failure
    assert "suspect rank 0 on " in failure


def test_without_rollbacks_the_first_nan_ends_the_run(run, struck):
    run.change(ray__max_rollbacks=0)
    with struck(nan_at=[{"d_step": 3}]):
        failure = run.go()["failure"]
    assert "there is no checkpoint yet" in failure
    assert failure.endswith("Nothing was tried again, as ray.max_rollbacks=0 says")
