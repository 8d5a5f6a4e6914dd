"""Scores in training: what a config asks for is measured, said how, and lost only where that is allowed."""

import pytest
import torch

from gan_core import EvaluationError, distributed
from gan_core.measures import MEASURES, scores_of
from tests.support import tiny_config, tiny_trainer

RANDOM = {"evaluation__extractor__name": "random_conv", "evaluation__extractor__dimensions": 16}
MANY = ["frechet_distance", "kernel_distance", "precision_recall", "density_coverage", "score", "memorisation", "birthday_paradox"]


def reports_of(trainer):
    reports = []
    trainer.run(reports.append)
    return reports


def test_every_metric_that_is_asked_for_is_in_each_evaluation():
    trainer = tiny_trainer(**RANDOM, evaluation__metrics=MANY, evaluation__objective="score")
    first, *_, last = reports_of(trainer)
    wanted = {f"quality/{name}" for name in scores_of(tuple(MANY), "random_conv")}
    for report in (first, last):
        assert wanted <= report.metrics.keys()
        assert report.scores.failures == {}
        assert report.scores.provenance.as_dict() == {
            "extractor": "random_conv",
            "weights_hash": trainer.judge.extractor.weights_hash,
            "resize": trainer.judge.extractor.resize,
            "dtype": "float32",
            "real_count": 32,
            "fake_count": 32,
            "split": "train",
            "seed": 0,
            "content_hash": trainer.parts.dataset.content_hash,
            "metrics_version": 2,
        }
    assert trainer.objective == "quality/score"
    assert trainer.state.best == {"quality/score": last.metrics["quality/score"], "images_seen": 160.0}


def test_the_best_is_the_largest_where_larger_is_better():
    trainer = tiny_trainer(**RANDOM, evaluation__metrics=["score"])
    trainer.state.best = {"quality/score": 0.5}
    assert trainer._is_best({"quality/score": 0.6})
    assert not trainer._is_best({"quality/score": 0.4})
    assert not trainer._is_best({})
    trainer = tiny_trainer()
    trainer.state.best = {"quality/kid_pixels": 0.5}
    assert trainer._is_best({"quality/kid_pixels": 0.4})
    assert not trainer._is_best({"quality/kid_pixels": 0.6})


def test_real_images_are_those_that_are_trained_on():
    trainer = tiny_trainer(evaluation__real_count=None)
    assert torch.equal(trainer.judge.real, trainer.parts.train)
    assert torch.equal(trainer.judge.held_out, trainer.parts.held_out)
    assert set(tiny_trainer(evaluation__real_count=100).judge.real.tolist()) <= set(trainer.parts.train.tolist())


class Broken(torch.nn.Module):
    """Makes NaN."""

    def forward(self, z, labels=None):
        return torch.full((len(z), 1, 8, 8), torch.nan)


def test_training_goes_on_where_scores_fail_and_says_why():
    trainer = tiny_trainer(evaluation__metrics=["kernel_distance", "precision_recall"], evaluation__real_count=40)
    trainer.parts.g_ema._network = Broken()
    last = reports_of(trainer)[-1]
    assert last.done
    assert not any(key.startswith("quality/") for key in last.metrics)
    assert set(last.scores.failures) == {"kernel_distance", "precision_recall"}
    assert all("NaN means that a network has diverged" in reason for reason in last.scores.failures.values())
    assert not last.is_best
    assert last.state is not None


def test_a_metric_that_fails_alone_leaves_the_others(monkeypatch):
    def fail(evidence):
        raise ValueError("no such luck")

    monkeypatch.setitem(MEASURES, "precision_recall", MEASURES["precision_recall"]._replace(run=fail))
    trainer = tiny_trainer(evaluation__metrics=["kernel_distance", "precision_recall"])
    report = reports_of(trainer)[-1]
    assert "quality/kid_pixels" in report.metrics
    assert report.scores.failures == {"precision_recall": "no such luck"}


def test_a_run_whose_objective_cannot_be_measured_stops():
    trainer, reports = tiny_trainer(evaluation__objective="kid_pixels"), []
    trainer.parts.g_ema._network = Broken()
    with pytest.raises(EvaluationError, match=r"evaluation.objective: kid_pixels could not be measured \(kernel_distance: .*NaN"):
        trainer.run(reports.append)
    assert [list(report.scores.failures) for report in reports] == [["kernel_distance"]]


def test_somebody_else_may_score():
    trainer = tiny_trainer()
    alone = reports_of(trainer)
    other = reports_of(type(trainer)(trainer.config, device="cpu", evaluates=False))
    assert [report.images_seen for report in other] == [report.images_seen for report in alone]
    assert all(report.scores is None and not report.is_best for report in other)
    assert other[-1].metrics["d/loss"] == alone[-1].metrics["d/loss"]


def test_making_a_trainer_waits_for_no_other_rank(monkeypatch):
    """A node may decode its data, or train its extractor, for longer than a collective's time-out; the workers wait for all afterwards."""

    def wait(*_):
        raise AssertionError("a collective")

    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    for name in ("gather", "any_rank", "sum_over_ranks", "mean_over_ranks"):
        monkeypatch.setattr(distributed, name, wait)
    trainer = tiny_trainer()
    with pytest.raises(AssertionError, match="a collective"):
        trainer.run([].append)


def test_scores_of_another_kind_are_not_mixed_into_a_run():
    trainer = tiny_trainer()
    trainer.run([].append)
    state = trainer.state_dict()
    state["provenance"] = {**state["provenance"], "weights_hash": "other"}
    with pytest.raises(ValueError, match="checkpoint's scores cannot be compared.*\n  weights_hash: other and"):
        tiny_trainer().load_state_dict(state)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"evaluation__metrics": ["fid"]}, "unknown metric name 'fid'"),
        ({"evaluation__metrics": "kernel_distance"}, r"evaluation.metrics: is a list, given 'kernel_distance'; write \[kernel_distance\]"),
        ({"evaluation__objective": "kid_pixel"}, "have a better side .did you mean 'kid_pixels'"),
        ({"evaluation__extractor__name": "stacked_lenet"}, "^evaluation.extractor.path is required"),
        ({"evaluation__metrics": []}, "evaluation.metrics: is empty"),
        ({"evaluation__objective": "fd_pixels"}, "evaluation.objective: fd_pixels is not among the scores of these metrics"),
        ({"evaluation__objective": "density_pixels", "evaluation__metrics": ["density_coverage"]}, "have a better side: coverage_pixels"),
        ({"evaluation__extractor__name": "lenets"}, "unknown extractor name 'lenets' .did you mean 'lenet'?"),
        ({"evaluation__fake_count": 1}, "evaluation.fake_count: input should be greater than 1, given 1"),
    ],
)
def test_settings_that_cannot_be_are_refused_with_the_config(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        tiny_config(**options)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"evaluation__metrics": ["frechet_distance"]}, "32 samples of 64 feature dimensions give a singular covariance"),
        ({"evaluation__metrics": ["classifier_score"]}, "classifier_score cannot be measured: the extractor pixels has no classes"),
        ({"evaluation__metrics": ["memorisation"], "diagnostics__held_out": 0.0}, "memorisation cannot be measured: no images are known"),
        ({"evaluation__metrics": ["mode_coverage"]}, "mode_coverage cannot be measured: the data set digits is not a known mixture"),
        ({"evaluation__metrics": ["stacked_mnist"]}, "stacked_mnist cannot be measured"),
        ({"evaluation__objective": "modes"}, "evaluation.objective: modes cannot be measured of digits; the scores here: kid_pixels"),
        ({"evaluation__metrics": ["birthday_paradox"], "evaluation__fake_count": 64}, "32 real images cannot calibrate a threshold for 64"),
        ({"evaluation__metrics": ["score"], "evaluation__fake_count": 5}, "needs at least 6 real and fake samples, given 5"),
        ({**RANDOM, "evaluation__metrics": ["parzen_window"]}, "parzen_window cannot be measured: it is of pixels"),
        ({"evaluation__extractor__name": "inception", "evaluation__extractor__weights": "nowhere.pt"}, "nowhere.pt"),
    ],
)
def test_what_these_data_or_weights_cannot_give_is_refused_before_the_first_step(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        tiny_trainer(**options)


def test_the_2014_score_is_measured_in_training():
    first, *_, last = (report.metrics for report in reports_of(tiny_trainer(evaluation__metrics=["parzen_window"], total_kimg=3.2)))
    assert last["quality/parzen_sigma"] in [10.0 ** (-1.0 + step / 9.0) for step in range(10)]
    assert last["quality/parzen_pixels_error"] > 0.0
    assert last["quality/parzen_pixels"] > first["quality/parzen_pixels"] + 1.0


def test_every_metric_has_a_name_that_a_config_knows():
    assert tiny_config(evaluation__metrics=list(MEASURES)).evaluation.metrics == tuple(MEASURES)
