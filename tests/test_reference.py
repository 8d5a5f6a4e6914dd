"""REFERENCE.md names what the code has: no more, no less."""

import re
from pathlib import Path

import pytest

from gan_core.losses import LOSSES
from gan_core.regularizers import REGULARIZERS
from gan_core.variants import VARIANTS
from tests.support import tiny_trainer

TEXT = (Path(__file__).parent.parent / "REFERENCE.md").read_text()


def rows(heading):
    """The cells of each row of the table below a heading."""
    section = TEXT.split(f"## {heading}", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def names(heading):
    return [name for row in rows(heading) for name in re.findall(r"`([^`]+)`", row[0])]


def logged(**options):
    reports = []
    tiny_trainer(**options).run(reports.append)
    return {key for report in reports for key in report.metrics}


def test_every_loss_is_in_the_table_with_its_undecided_logit():
    assert names("Losses") == list(LOSSES)
    for row in rows("Losses"):
        threshold = LOSSES[row[0].strip("`")].threshold
        assert row[4] == {None: "-", 0.0: "0", 0.5: "1/2", 1.0: "1"}[threshold], row[0]


def test_every_variant_is_in_the_table():
    assert sorted(names("Variants")) == sorted(VARIANTS)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_table_says_of_a_variant_what_it_sets(name):
    (said,) = [row[1] for row in rows("Variants") if f"`{name}`" in row[0]]
    preset = VARIANTS[name]
    if name.startswith("f_"):
        assert f"the {preset['loss']['generator_objective']} objective" in said
        clipped = re.search(r"exponential in the logit \((.*?)\) the variant", TEXT, re.DOTALL)[1]
        assert (f"`{name}`" in clipped) == (preset["optimizer"]["generator"]["clip_norm"] is not None)
        return
    adam = preset["optimizer"]["discriminator"]
    assert said.startswith(f"{preset['loss']['name']}, {preset['step_ratio']}, ")
    assert f"betas {adam['beta1']:g}, {adam['beta2']:g}" in said
    for key, value in preset["regularizers"].items():
        assert (key.replace("_", " ").replace("clip weight", "weights clipped") in said) or key in said, key
        assert value is True or f"{value:g}" in said, key


def test_every_penalty_is_in_the_table_with_its_weight():
    assert names("Penalties") == list(REGULARIZERS)
    for row in rows("Penalties"):
        regularizer = REGULARIZERS[row[0].strip("`")]
        assert row[1] == f"`{regularizer.weight_key}`" + (" / 2" if regularizer.factor == 0.5 else "")


def test_every_logged_metric_is_in_the_table_and_every_metric_there_is_logged():
    penalties = {f"regularizers__{regularizer.weight_key}": 0.1 for regularizer in REGULARIZERS.values()}
    band = {"advantage_low": 0.1, "advantage_high": 0.9, "adjust_kimg": 0.016}
    found = logged(**penalties, regularizers__r1_interval=2, **{f"step_ratio_schedule__{key}": value for key, value in band.items()})
    found |= logged(data__name="ring2d", data__count=500, network__generator__output="linear")
    assert set(names("Metrics")) == found | {"progress/images_seen"}  # the clock, added by the pipelines
