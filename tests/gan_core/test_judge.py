from dataclasses import replace

import pytest
import torch

from gan_core.data import digits, grid2d
from gan_core.judge import Judge, as_pixels, build_extractor, unmeasurable
from gan_core.measures import MEASURES, scores_of
from gan_core.provenance import require_same
from gan_core.sections import ExtractorConfig

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RAYGAN_CACHE", str(tmp_path / "cache"))


def judge(metrics=("kernel_distance", "precision_recall"), *, real=slice(0, 300), held_out=slice(300, 400), extractor="pixels", seed=0):
    dataset, numbers = digits.load(), torch.arange(1797)
    built = build_extractor(ExtractorConfig(name=extractor), dataset, CPU)
    return Judge(dataset, built, metrics, real=numbers[real], held_out=numbers[held_out], split="train", seed=seed)


def images(chosen):
    return digits.load().batch(torch.arange(1797)[chosen], CPU, torch.float32, labelled=False).inputs


def test_real_images_against_others_of_their_kind_score_well_and_noise_does_not():
    good = judge().score(images(slice(400, 700)).split(128), 300).values
    bad = judge().score((torch.rand(300, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1).split(128), 300).values
    assert abs(good["kid_pixels"]) < 0.1 * bad["kid_pixels"]
    assert good["precision_pixels"] > 0.5
    assert bad["precision_pixels"] < 0.1


def test_one_pass_gives_what_separate_passes_give():
    of_others = ("mode_coverage", "classifier_score", "class_agreement", "class_coverage", "stacked_mnist")
    metrics = tuple(name for name in MEASURES if name not in of_others)
    together = judge(metrics).score([images(slice(400, 700))], 300)
    apart = {key: value for name in metrics for key, value in judge((name,)).score([images(slice(400, 700))], 300).values.items()}
    assert together.values == apart
    assert not together.failures
    named = {key for key in together.values if not key.endswith("_error")}
    assert named == set(scores_of(metrics, "pixels"))


def test_scores_are_of_as_many_fakes_as_asked_for():
    whole = judge().score([images(slice(400, 600))], 150).values
    cut = judge().score([images(slice(400, 550))], 150).values
    assert whole == cut


def test_real_features_are_kept_and_found_again(tmp_path):
    counts = []
    for _ in range(2):
        found, extracted = judge(), []
        network = found.extractor.network

        def counting(part, network=network, extracted=extracted):
            extracted.append(len(part))
            return network(part)

        found.extractor = replace(found.extractor, network=counting)
        counts.append((found.score([images(slice(400, 700))], 300).values, sum(extracted)))
    assert counts[0][0] == counts[1][0]
    assert [count for _, count in counts] == [600, 300]
    assert len(list((tmp_path / "cache").glob("features-*.safetensors"))) == 1


def test_a_metric_that_fails_does_not_silence_the_others():
    found = judge(("frechet_distance", "kernel_distance")).score([images(slice(400, 440))], 40)
    assert "kid_pixels" in found.values
    assert list(found.failures) == ["frechet_distance"]
    assert "64" in found.failures["frechet_distance"]


@pytest.mark.parametrize(
    ("fakes", "reason"),
    [
        (torch.full((4, 1, 8, 8), float("nan")), "NaN"),
        (torch.zeros(4, 3, 8, 8), "shape"),
        (torch.zeros(4, 1, 9, 9), "shape"),
    ],
)
def test_images_that_cannot_be_judged_are_refused(fakes, reason):
    with pytest.raises(ValueError, match=reason):
        judge().score([fakes], 4)


def test_what_a_metric_needs_is_checked_before_anything_is_drawn():
    with pytest.raises(ValueError, match="unknown metric name 'kernel_distence'.*kernel_distance"):
        judge(("kernel_distence",))
    with pytest.raises(ValueError, match="class_coverage cannot be measured: the extractor pixels has no classes"):
        judge(("class_coverage",))
    with pytest.raises(ValueError, match="mode_coverage cannot be measured: the data set digits is not a known mixture"):
        judge(("mode_coverage",))


def test_what_can_be_measured_follows_from_data_and_extractor():
    dataset = digits.load()
    plain = build_extractor(ExtractorConfig(name="pixels"), dataset, CPU)
    with_classes = build_extractor(ExtractorConfig(name="lenet"), dataset, CPU)
    without = unmeasurable(dataset, plain, real=600, fake=300, held_out=None)
    assert without.keys() == {
        "class_agreement",
        "class_coverage",
        "classifier_score",
        "memorisation",
        "mode_coverage",
        "parzen_window",
        "stacked_mnist",
    }
    few = unmeasurable(dataset, with_classes, real=40, fake=50, held_out=torch.arange(5))
    assert few.keys() == {"birthday_paradox", "class_agreement", "frechet_distance", "mode_coverage", "parzen_window", "stacked_mnist"}
    assert "40 real images cannot calibrate a threshold for 50 fakes" in few["birthday_paradox"]


def test_points_of_a_mixture_are_judged_by_their_places():
    dataset = grid2d.load()
    extractor = build_extractor(ExtractorConfig(name="pixels"), dataset, CPU)
    numbers = torch.arange(2000)
    found = Judge(dataset, extractor, ("mode_coverage", "kernel_distance"), real=numbers[:1000], held_out=None, split="all", seed=0)
    values = found.score([dataset.images[1000:2000]], 1000).values
    assert values["modes"] == 25
    assert values["good_points"] == pytest.approx(0.989, abs=0.01)


def test_provenance_tells_settings_apart():
    one = judge().provenance(300)
    require_same(one, judge().provenance(300), "kid_pixels")
    for other in (judge().provenance(200), judge(real=slice(0, 200)).provenance(300), judge(seed=1).provenance(300)):
        with pytest.raises(ValueError, match="cannot be compared"):
            require_same(one, other, "kid_pixels")


def test_fakes_have_the_levels_of_a_picture():
    levels = as_pixels(torch.tensor([[[[-1.2, -1.0, -0.9999, 0.1, 1.0, 3.0]]]]))
    expected = torch.tensor([[[[0.0, 0.0, 0.0, 140.0, 255.0, 255.0]]]]) / 127.5 - 1.0
    torch.testing.assert_close(levels, expected)
    assert as_pixels(torch.full((1, 1, 1, 1), float("nan"))).isnan().all()
