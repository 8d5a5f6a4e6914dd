"""Metrics of neighbours in feature space, against plain loops over a whole distance matrix."""

import math

import pytest
import torch

from gan_core.metrics import _neighbours, birthday_paradox, density_coverage, memorisation, precision_recall
from gan_core.metrics._neighbours import manifold


def points(count, *, seed, dimensions=6, shift=0.0, scale=1.0):
    return torch.randn(count, dimensions, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale + shift


def radii_by_the_book(own, k):
    """The distance of each sample to its k-th nearest other one."""
    found = []
    for i, one in enumerate(own):
        found.append(sorted(math.dist(one, other) for j, other in enumerate(own) if j != i)[k - 1])
    return found


def by_the_book(real, fake):
    real, fake = real.tolist(), fake.tolist()
    apart = [[math.dist(r, f) for f in fake] for r in real]
    real_3, fake_3, real_5 = radii_by_the_book(real, 3), radii_by_the_book(fake, 3), radii_by_the_book(real, 5)
    rows, columns = range(len(real)), range(len(fake))
    return {
        "precision_pixels": sum(any(apart[i][j] <= real_3[i] for i in rows) for j in columns) / len(fake),
        "recall_pixels": sum(any(apart[i][j] <= fake_3[j] for j in columns) for i in rows) / len(real),
        "density_pixels": sum(apart[i][j] <= real_5[i] for i in rows for j in columns) / (5 * len(fake)),
        "coverage_pixels": sum(min(apart[i]) <= real_5[i] for i in rows) / len(real),
    }


PAIRS = {
    "apart": (points(90, seed=0), points(70, seed=1, shift=0.4, scale=0.8)),
    "alike": (points(60, seed=2), points(60, seed=3)),
    "duplicates": (points(40, seed=4).repeat(2, 1), points(40, seed=4)[:30].repeat(2, 1)),
}


def found(real, fake):
    return precision_recall.evaluate(real, fake) | density_coverage.evaluate(real, fake)


@pytest.mark.parametrize("block", [7, 2048])
@pytest.mark.parametrize("pair", PAIRS)
def test_precision_recall_density_and_coverage_are_those_of_plain_loops(pair, block, monkeypatch):
    monkeypatch.setattr(_neighbours, "BLOCK", block)
    expected = by_the_book(*PAIRS[pair])
    values = found(*PAIRS[pair])
    assert {key: values[key] for key in expected} == pytest.approx(expected, rel=1e-12)


def test_one_pass_serves_both():
    real, fake = PAIRS["apart"]
    once = manifold(real, fake)
    together = precision_recall.evaluate(real, fake, found=once) | density_coverage.evaluate(real, fake, found=once)
    assert together == found(real, fake)


@pytest.mark.parametrize("key", ["precision_pixels", "coverage_pixels"])
def test_standard_errors_are_those_of_a_share(key):
    values = found(*PAIRS["apart"])
    share, count = values[key], 70 if key.startswith("precision") else 90
    assert values[f"{key}_error"] == pytest.approx(math.sqrt(share * (1 - share) / count), rel=0.02)


def test_float32_far_from_the_origin_gives_what_float64_gives():
    real, fake = (part.float() + 1000.0 for part in PAIRS["apart"])
    assert found(real, fake) == pytest.approx(found(real.double(), fake.double()), abs=0.03)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda real, fake: (real, fake * float("nan")), "NaN"),
        (lambda real, fake: (real, fake[:, :5]), "dimension"),
        (lambda real, fake: (real[:3], fake), "real"),
        (lambda real, fake: (torch.zeros_like(real), fake), "same features"),
        (lambda real, fake: (real.long(), fake), "floating"),
    ],
)
@pytest.mark.parametrize("metric", [precision_recall, density_coverage])
def test_features_that_cannot_be_compared_are_refused(metric, change, reason):
    with pytest.raises(ValueError, match=f"(?i){reason}"):
        metric.evaluate(*change(*PAIRS["apart"]))


def test_fresh_samples_are_not_memorised_and_copies_are():
    training, held_out, fresh = points(800, seed=0), points(200, seed=1), points(200, seed=2)
    honest = memorisation.evaluate(training, held_out, fresh)
    assert honest["memorisation_pixels"] == pytest.approx(0.5, abs=3 * honest["memorisation_pixels_error"])
    assert 0.01 < honest["memorisation_pixels_error"] < 0.06
    copied = memorisation.evaluate(training, held_out, training[:200] + 1e-4)
    assert copied["memorisation_pixels"] == 1.0
    assert copied["copies_pixels"] == 1.0
    far = memorisation.evaluate(training, held_out, fresh * 10.0)
    assert far["memorisation_pixels"] < 0.05
    assert far["copies_pixels"] == 0.0


def test_memorisation_is_the_share_of_pairs_that_is_nearer():
    training, held_out, fake = points(30, seed=0), points(20, seed=1), points(25, seed=2)
    near = {
        name: [min(math.dist(one, other) for other in training.tolist()) for one in group.tolist()]
        for name, group in (("held_out", held_out), ("fake", fake))
    }
    pairs = [(f < h) + 0.5 * (f == h) for f in near["fake"] for h in near["held_out"]]
    values = memorisation.evaluate(training, held_out, fake)
    assert values["memorisation_pixels"] == pytest.approx(sum(pairs) / len(pairs), rel=1e-12)
    assert values["copies_pixels"] == sum(f < min(near["held_out"]) for f in near["fake"]) / 25


def test_the_birthday_paradox_finds_the_size_of_a_small_support():
    support, real = points(200, seed=0), points(2000, seed=1)
    draws = torch.randint(200, (400,), generator=torch.Generator().manual_seed(3))
    values = birthday_paradox.evaluate(real, support[draws])
    counts = draws.bincount(minlength=200)
    pairs = float((counts * (counts - 1) // 2).sum())
    assert values["duplicates_pixels"] == pytest.approx(float((counts[counts > 1]).sum()) / 400, abs=0.02)
    assert values["support_pixels"] == pytest.approx(400 * 399 / 2 / pairs, rel=0.05)
    assert values["support_pixels"] == pytest.approx(200, rel=0.25)


def test_a_generator_as_diverse_as_the_data_has_few_twins():
    values = birthday_paradox.evaluate(points(2000, seed=1), points(400, seed=2))
    assert values["duplicates_pixels"] < 0.03
    assert values["support_pixels"] > 10_000


def test_the_threshold_can_be_given():
    fake = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    values = birthday_paradox.evaluate(fake, fake, threshold=2.0)
    assert values["duplicates_pixels"] == 0.75
    assert values["support_pixels"] == pytest.approx(4 * 3 / 2 / 2)
