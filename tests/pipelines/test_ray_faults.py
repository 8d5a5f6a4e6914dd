"""Faults that two workers of `raygan train` meet: no memory, NaN, storage and server that go away, damaged checkpoints."""

import json
import os
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from gan_core import checkpoint
from pipelines import storage
from tests.chaos.faults import disk
from tests.pipelines import command
from tests.pipelines.command import TrackedRun, require_equal_states, start, write_config
from tests.pipelines.services import Tracking
from tests.pipelines.test_ray_run import reached, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # on an idle machine each takes half a minute

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


def slowly(folder):
    """Steps that take long enough for a fault to come between them, until the file `at_speed` is in the folder."""
    return {"slow": {"seconds": 0.05, "until": f"{folder}/at_speed"}}


def at_speed(folder):
    (folder / "at_speed").touch()


def finish(process):
    return command.finish(process, SECONDS_AT_MOST)


def run_in(folder, out):
    return TrackedRun(folder, out.split("run ", 1)[1].split(":")[0])


def train(folder, *words):
    """To a good end; returns the run, and what was said."""
    status, out, err = finish(start(folder, *words))
    assert status == 0, err
    return run_in(folder, out), err


class Heard:
    """A command that is listened to while it runs."""

    def __init__(self, process):
        self.process, self.lines = process, []
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self):
        for line in self.process.stderr:
            self.lines.append(line)

    def wait_for(self, words):
        wait_for(lambda: any(words in line for line in self.lines) or self.process.poll() is not None)
        if not any(words in line for line in self.lines):
            self.process.kill()
            raise AssertionError("".join(self.lines))

    def finish(self):
        try:
            status = self.process.wait(SECONDS_AT_MOST)
        finally:
            self.process.kill()
        self._thread.join()
        with self.process.stdout as out, self.process.stderr:
            return status, out.read(), "".join(self.lines)


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


def require_as_expected(run, expected, state=None):
    require_points_once(run, expected)
    for key in KEYS:
        assert run.values(key) == expected.values(key), key
    require_equal_states(state or run.final_state(), expected.final_state())


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


@pytest.fixture
def own_disk(tmp_path):
    """A file system of 8 MB with the runs' storage."""
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path], capture_output=True).returncode:
        pytest.skip("this needs leave to mount a tmpfs")
    subprocess.run(["umount", tmp_path], check=True)
    with disk(tmp_path / "disk", 8) as folder:
        yield folder


def fill_up(folder):
    """No byte more fits; returns what makes room again."""
    for size in (1 << 20, 1 << 12, 1):
        with suppress(OSError), (folder / "ballast").open("ab", buffering=0) as file:
            while True:
                file.write(bytes(size))
    return (folder / "ballast").unlink


def hide(folder):
    """Something empty that takes nothing is there instead; returns what brings the storage back."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=4k", "none", folder], check=True)
    return lambda: subprocess.run(["umount", "-l", folder], check=True)  # somebody may look at it just now


def kept(folder, run_id):
    with storage.latest(f"{folder}/runs", run_id) as found:
        return checkpoint.load(found)


@pytest.mark.parametrize("take_away", [fill_up, hide])
def test_a_storage_that_is_full_or_gone_for_a_while_is_waited_for(own_disk, tmp_path, expected, take_away):
    heard = Heard(begin(tmp_path, f"ray.storage_path={own_disk}/runs", faults=slowly(tmp_path)))
    run_id = wait_for(lambda: reached(own_disk, CHECKPOINT))
    bring_back = take_away(own_disk)
    heard.wait_for("waiting for it, at most 600 s")
    time.sleep(3.0)
    bring_back()
    at_speed(tmp_path)
    status, _, err = heard.finish()
    assert status == 0, err
    assert err.count(f"the storage {own_disk}/runs/{run_id} does not take the checkpoint checkpoint_0000") == 1
    assert err.count("the storage takes the checkpoint checkpoint_0000") == 1
    assert "continuing from" not in err
    require_as_expected(TrackedRun(tmp_path, run_id), expected, kept(own_disk, run_id))


def test_a_storage_that_stays_away_ends_the_run_in_time_and_resuming_loses_nothing(own_disk, tmp_path, expected):
    words = [f"ray.storage_path={own_disk}/runs", "ray.storage_timeout_seconds=4"]
    heard = Heard(begin(tmp_path, *words, faults=slowly(tmp_path)))
    run_id = wait_for(lambda: reached(own_disk, CHECKPOINT))
    bring_back = hide(own_disk)
    heard.wait_for("waiting for it, at most 4 s")
    began = time.monotonic()
    status, _, err = heard.finish()
    assert status == 1
    assert 3.0 < time.monotonic() - began < 60.0
    assert f"ray.storage_timeout_seconds: the storage {own_disk}/runs/{run_id} did not take the checkpoint checkpoint_0000" in err
    assert "within 4 s" in err and "make room there, or bring it back" in err
    assert f"continue it with: raygan train --resume {run_id}" in err
    assert "Traceback" not in err
    assert TrackedRun(tmp_path, run_id).run.info.status == "FAILED"
    bring_back()
    run, _ = train(tmp_path, "--resume", run_id)
    require_as_expected(run, expected, kept(own_disk, run_id))


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)


def test_a_damaged_checkpoint_is_passed_over_by_those_who_resume_and_this_is_said(tmp_path, expected):
    run, _ = train(tmp_path, write_config(tmp_path, workers=2), *WORDS, "total_kimg=6.4")
    for damage, newest, total in ((cut, 6400, 9.6), (flip, 9600, 12.8)):
        name, before = storage.checkpoint_name(newest), storage.checkpoint_name(newest - CHECKPOINT)
        damage(tmp_path / "runs" / run.run_id / name / checkpoint.STATE)
        run, err = train(tmp_path, "--resume", run.run_id, f"total_kimg={total}")
        assert err.count(f"{name} is damaged, so {before} is used: ") == 1
        assert f"continuing from the checkpoint at {(newest - CHECKPOINT) / 1000:.1f} kimg" in err
        assert "state.pt does not have the checksum" in run.run.data.tags[f"raygan.damaged.{name}"]
        assert (tmp_path / "runs" / run.run_id / f"damaged_{name}").is_dir()
    for key in ("d/loss", "g/loss", "quality/kid_pixels"):
        assert run.steps(key) == expected.steps(key), key
        assert run.values(key) == expected.values(key), key
    require_equal_states(run.final_state(), expected.final_state())


def test_points_wait_for_a_server_that_is_killed_and_comes_back(tmp_path, expected):
    server = Tracking(tmp_path)
    server.start()
    try:
        words = [f"mlflow.tracking_uri={server.uri}", "mlflow.delivery_timeout_seconds=120"]
        heard = Heard(begin(tmp_path, *words, faults=slowly(tmp_path)))
        run_id = wait_for(lambda: reached(tmp_path, CHECKPOINT))
        server.end()
        heard.wait_for(f"{server.uri} does not take metrics")
        server.start()
        at_speed(tmp_path)
        status, _, err = heard.finish()
        assert status == 0, err
        assert err.count("takes metrics again") == 1
        require_as_expected(TrackedRun(tmp_path, run_id, server.uri), expected)
    finally:
        server.end()
