import math

import pytest
import torch

from gan_core.metrics import class_coverage, classifier_score


def test_certain_and_even_classes_score_their_number():
    certain = torch.eye(10).repeat(50, 1)
    values = classifier_score.evaluate(certain, extractor="lenet")
    assert values["classifier_score_lenet"] == pytest.approx(10.0, rel=1e-9)
    assert values["classifier_score_lenet_error"] == pytest.approx(0.0, abs=1e-9)


def test_one_class_or_no_idea_scores_one():
    for probabilities in (torch.eye(10)[:1].repeat(100, 1), torch.full((100, 10), 0.1)):
        assert classifier_score.evaluate(probabilities, extractor="x")["classifier_score_x"] == pytest.approx(1.0, rel=1e-6)


def test_the_classifier_score_is_the_exponential_of_the_mean_divergence():
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(120, 5, generator=generator, dtype=torch.float64).mul(2).softmax(1)
    scores = []
    for first in range(0, 120, 30):
        part = table[first : first + 30].tolist()
        marginal = [sum(row[c] for row in part) / 30 for c in range(5)]
        scores.append(math.exp(sum(p * math.log(p / q) for row in part for p, q in zip(row, marginal, strict=True)) / 30))
    mean = sum(scores) / 4
    error = math.sqrt(sum((score - mean) ** 2 for score in scores) / 3 / 4)
    values = classifier_score.evaluate(table, extractor="x", splits=4)
    assert values["classifier_score_x"] == pytest.approx(mean, rel=1e-10)
    assert values["classifier_score_x_error"] == pytest.approx(error, rel=0.2)


@pytest.mark.parametrize("table", [torch.full((100, 4), 0.5), torch.full((100, 4), float("nan")), torch.eye(4)])
def test_what_are_no_probabilities_is_refused(table):
    with pytest.raises(ValueError, match="classifier_score"):
        classifier_score.evaluate(table, extractor="x")


def test_modes_and_reverse_divergence_are_those_of_the_histogram():
    classes = torch.tensor([0] * 50 + [1] * 30 + [3] * 20)
    values = class_coverage.evaluate(classes, num_classes=4, extractor="x")
    assert values["modes_x"] == 3
    expected = sum(p * math.log(p * 4) for p in (0.5, 0.3, 0.2))
    assert values["reverse_kl_x"] == pytest.approx(expected, rel=1e-12)
    against = class_coverage.evaluate(classes, num_classes=4, extractor="x", real_frequencies=torch.tensor([50, 30, 0.5, 20]))
    assert against["reverse_kl_x"] == pytest.approx(math.log(100.5 / 100), rel=1e-9)


def test_one_class_alone_is_as_far_as_can_be():
    values = class_coverage.evaluate(torch.zeros(10, dtype=torch.int64), num_classes=1000, extractor="x")
    assert values == {"modes_x": 1.0, "reverse_kl_x": pytest.approx(math.log(1000))}


def test_classes_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="class_coverage"):
        class_coverage.evaluate(torch.tensor([0, 4]), num_classes=4, extractor="x")
