"""Population based training: what is exploited really arrives, in one process and through Ray Train."""

import json
from itertools import pairwise

import pytest
import torch

from gan_core import Trainer
from gan_core.config import GanConfig
from gan_core.overrides import merge, validate
from pipelines import storage
from pipelines.config import JobConfig
from pipelines.sweeps.adoption import ADOPTED
from tests.gan_core.test_trainer import same
from tests.pipelines.command import write_config
from tests.pipelines.sweeps.runs import sweep

PBT = (
    "sweep.scheduler=pbt",
    "total_kimg=4.8",
    "schedule.report_kimg=0.8",
    "sweep.perturb_kimg=1.6",
    "optimizer.generator.beta1=0.0",
    "optimizer.generator.beta2=0.99",
    "optimizer.discriminator.beta1=0.0",
    "optimizer.discriminator.beta2=0.99",
    "loss.name=[hinge,non_saturating]",
    "step_ratio=[1:1,3:1]",  # which end their rounds at other counts of images
    "sweep.search=random",
)


def exploited(found):
    """Rows of trials that took over another's weights last, each with the donor's row and the images it had seen by then."""
    taken = []
    for row in found.rows:
        note = found.folder / "runs" / row.run_id / ADOPTED
        if note.is_file():
            told = json.loads(note.read_text())
            assert told["complete"]
            run_id, name = told["donor"].split("/")
            donor = next(other for other in found.rows if other.run_id == run_id)
            taken.append((row, donor, int(name.removeprefix(storage.PREFIX))))
    assert taken, "a population of two quantiles exploits at each round"
    return taken


def parameters_of(state):
    return [state[name][key].double() for name in ("generator", "discriminator", "g_ema") for key in sorted(state[name])]


def trained_on(found, row, donor, images_seen, until):
    """What the donor's checkpoint becomes when it is trained on with the heir's settings, here and now."""
    config = validate(found.config_of(row), JobConfig)
    heir = Trainer(validate(merge(config.gan().model_dump(), {"total_kimg": until / 1000}), GanConfig), device="cpu")
    heir.load_state_dict(found.state(donor, images_seen), perturbed=json.loads(found.tags(row)["raygan.point"]))
    heir.run([].append)
    return heir.state_dict()


def require_clones(found, close):
    for row, donor, images_seen in exploited(found):
        arrived, original = found.state(row, images_seen), found.state(donor, images_seen)
        for key in ("generator", "discriminator", "g_ema", "generator_optimizer", "discriminator_optimizer"):
            assert same(arrived[key], original[key]), key
        until = min(seen for seen in found.checkpoints(row) if seen > images_seen)
        expected, got = trained_on(found, row, donor, images_seen, until), found.state(row, until)
        for left, right in zip(parameters_of(expected), parameters_of(got), strict=True):
            assert close(left, right)
        assert f"at {images_seen / 1000:g} kimg from trial {donor.number}" in found.tags(row)["raygan.exploits"]


def require_hyperparameters(found):
    """Changed ones are metrics over time; what the loss is stays with the weights."""
    for row in found.rows:
        run = found.tracked(row)
        steps = run.steps("progress/images_seen")
        assert all(after - before >= 700 for before, after in pairwise(steps))  # none of a donor's, which is at other counts
        assert run.steps("hp/optimizer.generator.lr") == [0, *run.steps("d/loss")]
        assert set(run.values("hp/step_ratio").values()) <= {1.0, 3.0}
    for row, donor, images_seen in exploited(found):
        values = found.tracked(row).values("hp/optimizer.generator.lr")
        rates = {value for step, value in values.items() if step > images_seen + 100}  # its own end of the round was up to 48 later
        assert len(rates) == 1
        assert rates != {found.tracked(donor).values("hp/optimizer.generator.lr")[images_seen]}
        assert json.loads(found.tags(row)["raygan.point"])["loss.name"] == found.state(donor, images_seen)["config"]["loss.name"]


@pytest.mark.timeout(300)
def test_exploited_weights_arrive_in_one_process(tmp_path):
    found, _, _ = sweep(tmp_path, write_config(tmp_path), "loss_x_ratio+optimizer", *PBT, "sweep.trials=4")
    assert [row.reason for row in found.rows] == ["budget spent"] * 4
    require_clones(found, torch.equal)
    require_hyperparameters(found)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_exploited_weights_arrive_through_ray_train(tmp_path):
    words = (*PBT, "sweep.trials=2", "sweep.workers_per_trial=2")
    found, _, _ = sweep(tmp_path, write_config(tmp_path), "loss_x_ratio+optimizer", *words, timeout=500)
    assert [row.reason for row in found.rows] == ["budget spent"] * 2
    require_clones(found, lambda left, right: torch.allclose(left, right, rtol=1e-4, atol=1e-6))
    require_hyperparameters(found)
