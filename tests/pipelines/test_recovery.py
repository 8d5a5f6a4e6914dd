"""A rank that meets faults, in this process: no memory, numbers that are not finite, damaged checkpoints, being stopped."""

import json
import signal
from contextlib import contextmanager

import pytest
import torch
from mlflow import MlflowClient

from gan_core import checkpoint, steps, trainer
from gan_core.overrides import merge, validate
from pipelines import local, shelf, storage, worker
from pipelines.config import JobConfig
from pipelines.session import Job
from pipelines.signals import Asked
from tests.pipelines.command import require_equal_states
from tests.pipelines.faulty import sitecustomize as faults
from tests.support import tiny_tree

TIMES = ("progress/device_seconds", "progress/images_per_second", "progress/diagnostics_share")


class Run:
    """One run through the worker, without the command around it."""

    def __init__(self, client, folder, **options):
        tree = tiny_tree(total_kimg=0.64, schedule__report_kimg=0.064, schedule__sample_kimg=0.64, **options)
        tree = merge(tree, {"schedule.checkpoint_kimg": 0.16, "schedule.evaluate_kimg": 0.32, "mlflow.system_metrics": False})
        self.config = validate(merge(tree, {"ray.storage_path": str(folder)}), JobConfig)
        self.client, self.folder, self.said = client, folder, []
        self.run_id = client.create_run(client.get_experiment_by_name("recovery").experiment_id).info.run_id

    def show(self, images_seen, metrics):
        pass

    def say(self, sentence):
        self.said.append(sentence)

    def go(self, asked=None):
        job = Job(config=self.config.model_dump(), tracking_uri=self.client.tracking_uri, run_id=self.run_id, content_hash="")
        self.said.clear()
        return worker.run(job, local.LocalSession(self.config, self.run_id, self, asked or Asked()))

    def points(self):
        """Every metric's points but those of the clock on the wall."""
        keys = self.client.get_run(self.run_id).data.metrics.keys()
        histories = {key: self.client.get_metric_history(self.run_id, key) for key in keys if key not in TIMES}
        return {key: [(point.step, point.value) for point in history] for key, history in histories.items()}

    def tags(self):
        return {key: value for key, value in self.client.get_run(self.run_id).data.tags.items() if key.startswith("raygan.")}

    def state(self):
        with storage.latest(str(self.folder), self.run_id) as folder:
            return checkpoint.load(folder)

    def recalled(self):
        return json.loads((self.kept() / "facts.json").read_text())

    def change(self, **options):
        self.config = validate(
            merge(self.config.model_dump(), {key.replace("__", "."): value for key, value in options.items()}), JobConfig
        )

    def kept(self):
        return self.folder / self.run_id


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mlflow")
    found = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
    found.create_experiment("recovery", artifact_location=str(folder / "artifacts"))
    return found


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
                patch.setattr(trainer, "discriminator_step", faults.poisoned(trainer.discriminator_step, wanted["nan_at"]))
            yield

    return strike


def require_undisturbed(run, undisturbed):
    assert run.points() == undisturbed.points()
    require_equal_states(run.state(), undisturbed.state())


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


def test_a_damaged_checkpoint_is_told_and_the_run_goes_on_from_the_one_before(run, undisturbed):
    run.change(total_kimg=0.48)
    run.go()
    path = run.kept() / "checkpoint_000000000480" / "state.pt"
    path.write_bytes(path.read_bytes()[:-100])
    run.change(total_kimg=0.64)
    assert run.go()["failure"] == ""
    require_equal_states(run.state(), undisturbed.state())
    assert [step for step, _ in run.points()["d/loss"]] == [step for step, _ in undisturbed.points()["d/loss"]]
    assert run.said[0].startswith("checkpoint_000000000480 is damaged, so checkpoint_000000000320 is used: ")
    assert "state.pt does not have the checksum" in run.tags()["raygan.damaged.checkpoint_000000000480"]
    assert (run.kept() / "damaged_checkpoint_000000000480").is_dir()


def test_where_all_checkpoints_are_damaged_the_run_says_how_to_start_anew_each_time(run):
    run.go()
    for path in run.kept().glob("*/state.pt"):
        path.write_bytes(b"")
    before = sorted(path.name for path in run.kept().iterdir())
    for _ in range(2):
        outcome = run.go()
        assert f"start anew with: raygan train --from-run {run.run_id}" in outcome["failure"]
        assert (outcome["images_seen"], sorted(path.name for path in run.kept().iterdir())) == (0, before)


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        (storage.PENDING, b"[" * 100_000, "undelivered.json in the checkpoint is no JSON of ours"),
        (storage.PENDING, b'{"step": 1}', "undelivered records are none"),
        (
            storage.PENDING,
            b'[{"step": 1, "milliseconds": 1, "metrics": {"a": "b"}, "picture": "", "tags": {}}]',
            "undelivered records are none",
        ),
        (checkpoint.STATE, b"cos\nsystem\n(S'touch stolen'\ntR.", "is not loaded"),
    ],
)
def test_a_forged_checkpoint_is_refused_with_a_reason(run, file, content, sentence, monkeypatch):
    run.change(total_kimg=0.16)
    run.go()
    monkeypatch.chdir(run.folder)
    folder = run.kept() / "checkpoint_000000000160"
    (folder / file).write_bytes(content)
    checkpoint.seal(folder, (checkpoint.STATE, storage.PENDING), 160)
    outcome = run.go()
    assert sentence in outcome["failure"]
    assert not (run.folder / "stolen").exists()


def test_a_state_with_other_things_in_it_is_refused_with_a_reason(run):
    run.change(total_kimg=0.16)
    run.go()
    folder = run.kept() / "checkpoint_000000000160"
    state = checkpoint.load(folder)
    for forged in ({**state, "generator": [1, 2]}, {**state, "ratio": None}, {**state, "d_optimizer": {}, "alarms": {"counts": {}}}):
        checkpoint.save(forged, folder, beside=(storage.PENDING,))
        assert "the checkpoint holds no state of this run: " in run.go()["failure"]


def test_a_storage_that_is_gone_for_good_ends_the_run_with_the_remedy_and_what_it_had(run, undisturbed, monkeypatch):
    run.change(ray__storage_timeout_seconds=0.0)
    into_place, calls = shelf._into_place, []

    def vanished(folder, final):
        calls.append(final)
        if len(calls) > 2:
            raise OSError(30, "Read-only file system")
        into_place(folder, final)

    monkeypatch.setattr(shelf, "_into_place", vanished)
    outcome = run.go()
    assert outcome["resumable"]
    assert "Read-only file system" in outcome["failure"]
    assert "make room there, or bring it back" in outcome["failure"]
    monkeypatch.undo()
    assert run.go()["failure"] == ""
    require_undisturbed(run, undisturbed)


def test_a_run_that_is_asked_to_stop_anywhere_goes_on_as_if_it_had_not(run, undisturbed, monkeypatch):
    monkeypatch.setattr("gan_core.wishes.LOOK_SECONDS", 0.0)
    stops = 0
    step, count = trainer.Trainer._round, [0]

    def counted(self):
        step(self)
        count[0] += 1
        if count[0] % 7 == 0:
            asked.signum = signal.SIGTERM

    monkeypatch.setattr(trainer.Trainer, "_round", counted)
    while True:
        asked = Asked()
        outcome = run.go(asked)
        assert outcome["failure"] == ""
        if not outcome["stopped"]:
            break
        stops += 1
    assert stops == 5  # of 40 rounds
    require_undisturbed(run, undisturbed)
    assert not list(run.kept().glob("interim_*"))
