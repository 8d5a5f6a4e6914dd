"""Which trials of a sweep train together, and which sweeps cannot be packed."""

from contextlib import nullcontext

import pytest

from gan_core import Trainer
from gan_core.overrides import merge, validate
from pipelines import cli
from pipelines.sweeps import conduct, packing, packs
from pipelines.sweeps import plan as plans
from pipelines.sweeps.config import SweepJobConfig
from pipelines.sweeps.ledger import Identity
from pipelines.sweeps.packing import Packing
from pipelines.sweeps.tuning import Slots
from tests.pipelines.command import write_config
from tests.support import tiny_tree


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """A sweep's packs, of at most `packed` trials and `at_once` at once."""
    monkeypatch.chdir(tmp_path)

    def planned(space, *, packed, at_once, **overrides):
        plan = plans.make(write_config(tmp_path), space, {key.replace("__", "."): value for key, value in overrides.items()})
        identities = [plan.identity(number) for number in range(plan.planned)]
        return packing.plan(identities, plan.told(), packed=packed, at_once=at_once)

    return planned


def numbers(found):
    return [[identity.number for identity in pack] for pack in found.packs]


LOSSES = ["hinge", "non_saturating", "wasserstein", "least_squares", "minimax"]


def test_losses_ratios_rates_and_seeds_train_together(planned):
    found = planned("loss_x_ratio", packed=32, at_once=1, loss__name=LOSSES, step_ratio=["1:1", "2:1"])
    assert numbers(found) == [list(range(10))]
    assert found.alone == {}
    rates = planned("optimizer", packed=32, at_once=1, sweep__search="random", sweep__trials=5)
    assert numbers(rates) == [list(range(5))]


def test_no_pack_has_more_than_asked_for_and_they_are_of_nearly_one_size(planned):
    found = planned("loss_x_ratio", packed=4, at_once=1, loss__name=LOSSES, step_ratio=["1:1", "2:1"])
    assert numbers(found) == [[6, 7, 8, 9], [0, 1, 2], [3, 4, 5]]
    assert packing.words(found) == "1 of 4 and 2 of 3 trials"


def test_trials_are_divided_among_all_that_can_run_at_once(planned):
    settings = {"loss__name": LOSSES, "step_ratio": ["1:1"]}
    assert numbers(planned("loss_x_ratio", packed=32, at_once=2, **settings)) == [[2, 3, 4], [0, 1]]
    assert numbers(planned("loss_x_ratio", packed=32, at_once=9, **settings)) == [[0], [1], [2], [3], [4]]


def test_architectures_do_not_mix(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = plans.make(write_config(tmp_path), "smoke", {}).told()
    points = [{"network.z_dim": size, "loss.name": loss} for loss in ("hinge", "minimax") for size in (8, 16)] + [{"batch_size": 32}]
    identities = [Identity(number, number, "screen", 0, point) for number, point in enumerate(points)]
    found = packing.plan(identities, told, packed=32, at_once=1)
    assert numbers(found) == [[0, 2], [1, 3], [4]]
    assert found.alone == {4: packing.NO_OTHER}


def test_a_trial_that_cannot_be_batched_has_a_pack_of_its_own_and_a_reason(planned, monkeypatch):
    monkeypatch.setattr(packing, "why_not_batched", lambda trainer: "it is hinge" if trainer.config.loss.name == "hinge" else None)
    found = planned("loss_x_ratio", packed=32, at_once=1, loss__name=LOSSES, step_ratio=["1:1", "2:1"])
    assert numbers(found) == [[2, 3, 4, 5, 6, 7, 8, 9], [0], [1]]
    assert found.alone == {0: "it is hinge", 1: "it is hinge"}
    assert packing.words(found) == "1 of 8 and 2 of 1 trial"


def test_the_only_one_of_its_architecture_is_told_so(planned):
    found = planned("loss_x_ratio", packed=32, at_once=1, loss__name="hinge", step_ratio="1:1")
    assert found.alone == {0: packing.NO_OTHER}


def test_for_packs_nothing_is_compiled_or_recorded(planned, monkeypatch):
    built = []

    def build(config, **given):
        built.append((config.speed.compile, config.speed.cuda_graphs))
        return Trainer(config, **given)

    monkeypatch.setattr(packing, "Trainer", build)
    found = planned("loss_x_ratio", packed=8, at_once=1, loss__name=LOSSES[:2], step_ratio="1:1", speed__compile=True)
    assert numbers(found) == [[0, 1]]
    assert built == [(False, False)] * 2


def test_a_trial_that_cannot_be_built_is_alone_with_its_reason(planned, monkeypatch):
    def build(config, **given):
        if config.loss.name == "minimax":
            raise ValueError("minimax: not here\nnor there")
        return Trainer(config, **given)

    monkeypatch.setattr(packing, "Trainer", build)
    found = planned("loss_x_ratio", packed=8, at_once=1, loss__name=["hinge", "minimax", "wasserstein"], step_ratio="1:1")
    assert numbers(found) == [[0, 2], [1]]
    assert found.alone == {1: "minimax: not here"}


def test_a_sweep_of_which_no_trials_can_train_together_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["sweep", write_config(tmp_path), "loss_x_ratio", "loss.name=[hinge,minimax]", "step_ratio=1:1", "trials.packed=8"]
    assert cli.main([*words, "reuse_fakes=true"]) == 2
    said = capsys.readouterr()
    assert said.err == (
        "raygan sweep: trials.packed: no trials of this sweep can train together (0, 1: it reuses fakes); set trials.packed=1, or take "
        "another network\n"
    )
    assert not said.out
    assert not (tmp_path / "runs").exists()
    assert cli.main([*words, "reuse_fakes=true", "--dry-run"]) == 2


@pytest.mark.parametrize(("repeats", "refused"), [({"confirm": 0}, True), ({"seeds": 1}, True), ({}, False)])
def test_a_single_trial_has_company_in_its_repeats(tmp_path, monkeypatch, repeats, refused):
    monkeypatch.chdir(tmp_path)
    overrides = {"loss.name": "hinge", "step_ratio": "1:1", **{f"sweep.{key}": value for key, value in repeats.items()}}
    plan = plans.make(write_config(tmp_path), "loss_x_ratio", overrides)
    with pytest.raises(ValueError, match=packing.NO_OTHER) if refused else nullcontext():
        packing.require_company([plan.identity(0)], plan.told(), plan.config.sweep)


def test_a_sweep_says_as_it_begins_which_trials_are_not_batched(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(packing, "why_not_batched", lambda trainer: "it is hinge" if trainer.config.loss.name == "hinge" else None)
    overrides = {"loss.name": ["hinge", "minimax", "wasserstein"], "step_ratio": ["1:1", "2:1"], "trials.packed": 8}
    plan, said, run = plans.make(write_config(tmp_path), "loss_x_ratio", overrides), [], []
    monkeypatch.setattr(conduct, "say", said.append)
    monkeypatch.setattr(packs, "run", lambda batch, told, slots, packing, **given: run.append(packing.packs))
    ride = conduct.Ride(plan, plan.told(), None, "some", Slots({"cpu": 1.0, "gpu": 0.0}, 1, False), [], False)
    conduct._run(ride, [plan.identity(number) for number in range(6)], 6, None, None)
    assert said == ["packs: 1 of 4 and 2 of 1 trial", "not batched: 0, 1: it is hinge"]
    assert len(run) == 1


def test_reasons_in_words():
    alone = dict.fromkeys([7, 8, 5, 3, 1, 0, 6], "so") | dict.fromkeys([2, 4], "otherwise")
    assert packing.reasons(Packing([], alone)) == ["0, 1, 3, 5 to 8: so", "2, 4: otherwise"]


def test_packs_in_words():
    assert packing.words(Packing([[0] * 8, [0] * 8, [0] * 3], {})) == "2 of 8 and 1 of 3 trials"
    assert packing.words(Packing([[0]], {})) == "1 of 1 trial"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"sweep.scheduler": "pbt"}, r"trials\.packed: does not go with sweep\.scheduler=pbt: it pauses trials .* take asha, or set"),
        ({"sweep.search": "tpe"}, r"trials\.packed: does not go with sweep\.search=tpe: it chooses a point by the results before it"),
        (
            {"sweep.equal": "device_seconds", "sweep.device_seconds": 3.0},
            r"trials\.packed: does not go with sweep\.equal=device_seconds: those of a pack share the seconds of one device; take images",
        ),
        ({"sweep.workers_per_trial": 2}, r"trials\.packed: a pack is one process, and sweep\.workers_per_trial=2 asks for more"),
        ({"trials.packed": 0}, r"trials\.packed: .*greater than 0"),
        ({"trials.paced": 8}, r"unknown key 'trials\.paced' \(did you mean 'packed'\?\)"),
    ],
)
def test_a_sweep_that_cannot_be_packed_is_refused(overrides, message):
    with pytest.raises(ValueError, match=message):
        validate(merge(tiny_tree(), {"trials.packed": 8, **overrides}), SweepJobConfig)


@pytest.mark.parametrize("overrides", [{"sweep.scheduler": "pbt"}, {"sweep.search": "tpe"}, {"sweep.workers_per_trial": 2}])
def test_without_packs_nothing_of_it_is_refused(overrides):
    assert validate(merge(tiny_tree(), overrides), SweepJobConfig).trials.packed == 1


def test_a_sweep_keeps_how_it_was_packed_and_may_go_on_otherwise(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = plans.make(write_config(tmp_path), "smoke", {"trials.packed": 8}).named("some")
    assert plans.restore(plan.stored(), {}).config.trials.packed == 8
    assert plans.restore(plan.stored(), {"trials.packed": 1}).config.trials.packed == 1
    older = {key: value for key, value in plan.stored().items() if key != "trials"}
    assert plans.restore(older, {}).config.trials.packed == 1
    assert "trials" not in plan.told()["tree"]


def test_a_dry_run_says_how_trials_are_packed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(packing, "why_not_batched", lambda trainer: "it is hinge" if trainer.config.loss.name == "hinge" else None)
    words = ["loss_x_ratio", "loss.name=[hinge,minimax,wasserstein]", "step_ratio=[1:1,2:1]", "sweep.max_concurrent=1", "trials.packed=3"]
    assert cli.main(["sweep", write_config(tmp_path), *words, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "packs           2 of 2 and 2 of 1 trial; what is saved" in said
    assert "not batched     0, 1: it is hinge" in said
