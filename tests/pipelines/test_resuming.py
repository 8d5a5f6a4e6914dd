"""A rank that begins from checkpoints that are damaged or forged, that cannot keep new ones, and that is asked to stop; in this process."""

import signal

import pytest

from gan_core import checkpoint, trainer
from pipelines import shelf, storage
from pipelines.signals import Asked
from tests.pipelines.attempts import Run, require_undisturbed, store
from tests.pipelines.command import require_equal_states


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
