"""A pack in this process, without Ray: what its members tell the driver, and that each is the run that it would be alone."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from gan_core import checkpoint
from gan_core.population import Population
from pipelines import environment, gauges, run_writer, storage, tracking
from pipelines.sweeps import hosts, ledger, trial
from pipelines.sweeps import pack as packs
from pipelines.sweeps import plan as plans
from pipelines.sweeps.ledger import ALONE_TAG, SIZE_TAG
from pipelines.sweeps.pack import BROKE, FAILED, LEFT, REPORTED, Pack, Seat
from pipelines.sweeps.schedulers import CLOCK, GOODNESS
from pipelines.sweeps.trial import ENDED
from tests.pipelines.command import TrackedRun, write_config

TIMED = ("system/", "progress/device_seconds", "progress/images_per_second", "progress/diagnostics_share", "budget/device_seconds")


class Alone(hosts.TuneProcess):
    """A host that Ray Tune has no part in; every trial goes on."""

    def report(self, values, pointer=None):
        return True

    def take_over(self, place, run_id, identity):
        return identity

    def show(self, labels, images_seen, metrics):
        """Nobody watches."""


class Sweeping:
    """A sweep's ledger in `folder`, as its driver makes it."""

    def __init__(self, folder, **overrides):
        settings = {"loss.name": ["hinge", "wasserstein"], "step_ratio": ["1:1", "2:1"], "precision": "float64", "total_kimg": 0.8}
        settings |= {"mlflow.tracking_uri": f"sqlite:///{folder}/mlflow.db", "mlflow.system_metrics": False}
        settings |= {"schedule.report_kimg": 0.2, **{f"schedule.{key}_kimg": 0.4 for key in ("sample", "evaluate", "checkpoint")}}
        self.folder = folder
        self.plan = plans.make(write_config(folder), "loss_x_ratio", settings | overrides).named("some")
        self.tracker = tracking.connect(self.plan.config.mlflow.tracking_uri, "raygan-some")
        storage.make_folder(self.plan.config.ray.storage_path, trial.folder_of("some"))
        self.told = {
            **self.plan.told(),
            "tracking_uri": self.tracker.uri,
            "experiment_id": self.tracker.experiment_id,
            "facts": environment.describe(),
        }
        ledger.create(self.tracker, "some", self.plan.stored(), "")
        self.identities = [self.plan.identity(number) for number in range(self.plan.planned)]

    def run(self, number):
        return TrackedRun(self.folder, ledger.run_of(self.tracker, "some", number), self.tracker.uri)

    def points(self, number):
        """All metric points of a trial that are no times."""
        run = self.run(number)
        return {key: run.values(key) for key in run.run.data.metrics if not key.startswith(TIMED)}

    def state(self, number):
        return self.run(number).final_state()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A tracking store with its tables, which take seconds to make."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    tracking.reach(f"sqlite:///{path}")
    return path


@pytest.fixture
def sweeping(tmp_path, monkeypatch, store):
    monkeypatch.chdir(tmp_path)

    def sweeping(name, **overrides):
        (tmp_path / name).mkdir()
        shutil.copy(store, tmp_path / name / "mlflow.db")
        return Sweeping(tmp_path / name, **{**overrides, "ray.storage_path": str(tmp_path / name / "runs")})

    return sweeping


def played(sweep, answer, alone=None):
    """Events of a pack of all trials until each has left, or broken; `answer(number, values)` says whether a trial goes on."""
    pack, events, left = Pack(sweep.told), [], set()
    pack.begin([identity._asdict() for identity in sweep.identities], alone or {})
    while len(left) < len(sweep.identities):
        for event in pack.events():
            events.append(event)
            if event.kind == REPORTED and not event.values.get("done"):
                pack.answer(event.number, go_on=answer(event.number, event.values))
            elif event.kind != REPORTED:
                left.add(event.number)
    return events


def test_each_member_is_the_run_that_it_would_be_alone(sweeping):
    """Points, checkpoints, params and tags: to rounding, in float64."""
    together, apart = sweeping("together"), sweeping("apart")
    events = played(together, lambda number, values: True, alone={3: "a reason"})
    for identity in apart.identities:
        trial.train(identity, apart.told, Alone())
    assert {(event.number, event.kind) for event in events if event.kind != REPORTED} == {(number, LEFT) for number in range(4)}
    for number in range(4):
        ends = [event.values[ENDED] for event in events if event.number == number and event.values.get("done")]
        assert ends == ["budget spent"]
        mine, its = together.points(number), apart.points(number)
        assert mine.keys() == its.keys()
        for key, points in its.items():
            assert mine[key] == pytest.approx(points, rel=1e-9, abs=1e-9, nan_ok=True), (number, key)
        left, right = together.run(number).run.data, apart.run(number).run.data
        different = {key for key in left.params if left.params[key] != right.params[key]}
        assert different <= {"ray.storage_path", "mlflow.tracking_uri"}
        assert left.tags[SIZE_TAG] == "4"
        assert left.tags.keys() - right.tags.keys() == {SIZE_TAG} | ({ALONE_TAG} if number == 3 else set())
        assert together.run(number).pictures() == apart.run(number).pictures()
        mine, its = together.state(number), apart.state(number)
        for name in ("generator", "discriminator", "g_ema"):
            for key, tensor in its[name].items():
                assert mine[name][key].numpy() == pytest.approx(tensor.numpy(), rel=1e-9, abs=1e-9), (name, key)


def test_a_member_stops_by_itself_where_it_is_told_to_and_the_others_go_on(sweeping):
    sweep = sweeping("some")
    events = played(sweep, lambda number, values: not (number == 1 and values[CLOCK] >= 0.4))
    assert sorted(event.number for event in events if event.kind == LEFT) == [0, 1, 2, 3]
    assert [event.number for event in events if event.values.get("done")].count(1) == 0
    assert max(sweep.run(1).steps("progress/images_seen")) == 416  # the round in which 400 were due
    for number in (0, 2, 3):
        assert max(sweep.run(number).steps("progress/images_seen")) >= 800
    (folder,) = (sweep.folder / "runs" / sweep.run(1).run_id).glob("checkpoint_0*")
    assert checkpoint.verify(folder) == 416  # it can go on from there


def test_a_member_that_breaks_begins_again_from_its_checkpoint_beside_the_others(sweeping, monkeypatch):
    sweep, broken = sweeping("some"), []
    save = hosts.TrialSession.save

    def breaking(session, name, fill, *, best_at):
        save(session, name, fill, best_at=best_at)
        if session._host._identity.number == 2 and not broken:
            broken.append(name)
            raise RuntimeError("no more")

    monkeypatch.setattr(hosts.TrialSession, "save", breaking)
    pack, left = Pack(sweep.told), []
    pack.begin([identity._asdict() for identity in sweep.identities], {})
    while len(left) < 4:
        for event in pack.events():
            if event.kind == REPORTED and not event.values.get("done"):
                pack.answer(event.number, go_on=True)
            elif event.kind == BROKE:
                assert (event.number, event.error.splitlines()[-1]) == (2, "RuntimeError: no more")
                pack.go_on(sweep.identities[2]._asdict())
            elif event.kind == LEFT:
                left.append(event.number)
    assert sorted(left) == [0, 1, 2, 3]
    assert broken == ["checkpoint_000000000400"]
    assert sweep.run(2).steps("d/loss") == [208, 400, 608, 800]  # each once
    assert sweep.run(2).final_state()["images_seen"] == 800


def test_what_a_member_reported_before_it_broke_is_in_its_run(sweeping, monkeypatch):
    sweep = sweeping("some", **{"loss.name": "hinge", "step_ratio": "1:1"})

    def breaking(session, name, fill, *, best_at):
        raise RuntimeError("no more")

    monkeypatch.setattr(run_writer, "WAIT_SECONDS", 600.0)
    monkeypatch.setattr(hosts.TrialSession, "save", breaking)
    pack = Pack(sweep.told)
    pack.begin([sweep.identities[0]._asdict()], {})
    assert [event.kind for event in pack.events()] == [BROKE]
    assert sweep.run(0).steps("d/loss") == [208, 400]


def test_members_that_diverge_or_do_not_fit_end_with_the_reason_and_the_others_go_on(sweeping):
    """f_kl diverges at such a rate, hinge does not; mmd refuses classes."""
    settings = {"loss.name": ["f_kl", "hinge", "mmd"], "step_ratio": "1:1", "network.conditional": True, "ray.max_rollbacks": 0}
    sweep = sweeping("some", **settings, **{"optimizer.discriminator.lr": 1e4, "sweep.stop_on_alarms": []})
    events = played(sweep, lambda number, values: True)
    ends = {event.number: event.values for event in events if event.values.get("done")}
    assert ends[0][ENDED].startswith("diverged: ")
    assert ends[0][GOODNESS] == -1e9
    assert ends[1][ENDED] == "budget spent"
    assert ends[2][ENDED].startswith("refused: network.conditional: the loss 'mmd'")
    assert sorted(event.number for event in events if event.kind == LEFT) == [0, 1, 2]


def test_tags_of_a_pack_are_those_of_the_last_one(sweeping):
    """A trial that goes on in another pack, or in none, keeps none of what was said of the first."""
    sweep = sweeping("some", **{"loss.name": "hinge", "step_ratio": "1:1"})
    found = []
    for alone in ({0: "a reason"}, {}, None):
        if alone is None:
            trial.train(sweep.identities[0], sweep.told, Alone())
        else:
            played(sweep, lambda number, values: True, alone)
        tags = sweep.run(0).run.data.tags
        found.append((tags.get(SIZE_TAG), tags.get(ALONE_TAG)))
    assert found == [("1", "a reason"), ("1", None), (None, None)]


def test_a_member_that_waits_for_a_store_as_it_begins_leaves_the_turn_to_others(sweeping, monkeypatch):
    sweep, made, free = sweeping("some", **{"loss.name": "hinge"}), [], {}

    def populate(size):
        made.append(Population(size))
        return made[-1]

    def turn_is_free():
        found = made[0]._baton.acquire(timeout=5.0)
        if found:
            made[0]._baton.release()
        return found

    def watch(module, name):
        do = getattr(module, name)

        def watched(*given, **options):
            with ThreadPoolExecutor() as others:
                free[name] = free.get(name, True) and others.submit(turn_is_free).result()
            return do(*given, **options)

        monkeypatch.setattr(module, name, watched)

    monkeypatch.setattr(packs, "Population", populate)
    for module, name in ((trial.Shelf, "prepare"), (trial, "_reach"), (ledger, "run_of"), (ledger, "open_trial"), (ledger, "mark_place")):
        watch(module, name)
    events = played(sweep, lambda number, values: False)
    assert {event.kind for event in events} == {REPORTED, LEFT}
    assert free == dict.fromkeys(("prepare", "_reach", "run_of", "open_trial", "mark_place"), True)


def test_a_step_of_all_that_fails_fails_the_pack_and_no_run(sweeping, monkeypatch):
    """Want of memory too: no run is to take smaller batches from here on because others took the memory."""
    sweep = sweeping("some")

    monkeypatch.setattr(Population, "_advance", lambda self: setattr(self, "_failure", MemoryError("full")))
    events = played(sweep, lambda number, values: True)
    assert {(event.number, event.kind) for event in events if event.kind != REPORTED} == {(number, FAILED) for number in range(4)}
    for number in range(4):
        assert not (sweep.folder / "runs" / sweep.run(number).run_id / "facts.json").exists()


@pytest.fixture
def last_event(monkeypatch):
    """The last event of a member whose training does this in its place."""

    def last_event(train):
        monkeypatch.setattr(trial, "train", train)
        pack = Pack({"credentials": {}})
        pack.population, pack._size, pack._alone = Population(1), 1, {}
        try:
            Seat(ledger.Identity(7, 7, "screen", 0, {}), pack).occupy()
        finally:
            (event,) = pack.events()
            last_event.kind = event.kind
        return event.kind

    return last_event


def test_whatever_breaks_a_member_after_its_pack_has_failed_is_the_pack_s_failure(last_event):
    def train(identity, told, host, *, failure):
        host._population._failure = failure
        raise ConnectionError("as it waited for the store")

    assert last_event(partial(train, failure=None)) == BROKE
    assert last_event(partial(train, failure=MemoryError("full"))) == FAILED
    assert last_event(lambda identity, told, host: None) == LEFT


def test_a_member_s_end_is_told_although_its_gauges_cannot_be_ended(last_event, monkeypatch):
    def end(run_id):
        raise RuntimeError("no gauges")

    monkeypatch.setattr(gauges, "end", end)
    with pytest.raises(RuntimeError, match="no gauges"):
        last_event(lambda identity, told, host: None)
    assert last_event.kind == LEFT
