"""REFERENCE.md names what the code has: no more, no less."""

import importlib
import inspect
import re
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch

from gan_core import registry
from gan_core.config import SUPPLIED_BY_DATA
from gan_core.data._decode import CONVERSIONS, REASONS
from gan_core.divergences import DIVERGENCES
from gan_core.losses import LOSSES
from gan_core.measures import MEASURES
from gan_core.regularizers import REGULARIZERS
from gan_core.schema import keyword_schema
from gan_core.sections import AugmentConfig, StepRatioScheduleConfig
from gan_core.variants import VARIANTS
from pipelines import apart, prepare, sample, submit
from pipelines.drawing import many, shows
from pipelines.sweeps.config import SweepConfig, TrialsConfig
from tests.support import tiny_trainer

SMALL = {"capacity": 16, "max_width": 4}
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


def test_every_data_set_is_in_the_table_with_its_options_and_their_defaults():
    assert names("Data sets")[: len(rows("Data sets"))] == registry.choices("gan_core.data")
    for row in rows("Data sets"):
        parameters = inspect.signature(registry.find("gan_core.data", row[0].strip("`")).load).parameters
        said = dict(re.findall(r"`(\w+)`(?: ([\w.]+))?", row[1]))
        assert list(said) == list(parameters)
        for name, parameter in parameters.items():
            default = parameter.default
            written = "" if default is inspect.Parameter.empty else "null" if default is None else str(default).removesuffix(".0")
            assert said[name] == written, (row[0], name)


def test_every_option_of_prepare_is_in_the_table_with_its_default():
    options = {action.option_strings[-1]: action for action in prepare.parser()._actions if action.option_strings and action.dest != "help"}
    assert names("Preparing") == list(options)
    for row in rows("Preparing"):
        default = options[row[0].strip("`")].default
        assert row[1] == ("" if default is None else str(default))


def test_every_conversion_and_every_reason_of_the_decoder_is_in_the_tables():
    assert [name for name in names("Images that are not plain") if name in (*CONVERSIONS, *REASONS)] == [*CONVERSIONS, *REASONS]


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


def test_every_network_is_in_the_table_with_its_options_and_its_size():
    assert names("Networks")[: len(rows("Networks"))] == registry.choices("gan_core.networks")
    for row in rows("Networks"):
        module = registry.find("gan_core.networks", row[0].strip("`"))
        for cell, player in ((row[3], module.generator), (row[4], module.discriminator)):
            assert re.findall(r"`(\w+)`", cell) == list(keyword_schema(player, supplied=SUPPLIED_BY_DATA | {"z_dim"}).model_fields)
        for cell, resolution in ((row[5], 32), (row[6], 128)):
            shape = {"resolution": resolution, "channels": 3, "num_classes": 0}
            with torch.device("meta"):
                players = module.generator(**shape, z_dim=64), module.discriminator(**shape)
            counts = [sum(parameter.numel() for parameter in player.parameters()) for player in players]
            assert cell == "{:,} and {:,}".format(*counts)


def test_every_divergence_is_in_the_table():
    assert names("Divergences") == list(DIVERGENCES)


def test_every_key_of_the_step_ratios_schedule_is_in_the_table_with_its_default():
    fields = StepRatioScheduleConfig.model_fields
    assert names("Step ratio") == list(fields)
    for row in rows("Step ratio"):
        default = fields[row[0].strip("`")].default
        assert row[1] == ("null" if default is None else f"{default:g}" if isinstance(default, float) else default)


def test_every_augmentation_is_in_the_table_with_its_options():
    names_of_both = names("Augmentation")
    known = registry.choices("gan_core.augmentations")
    assert sorted(names_of_both[: len(known)]) == known
    fields = AugmentConfig.model_fields
    assert names_of_both[len(known) :] == [key for key in fields if key not in ("name", "mirror")]
    for row in rows("Augmentation")[: len(known)]:
        module = registry.find("gan_core.augmentations", row[0].strip("`"))
        assert re.findall(r"`(\w+)`", row[2]) == list(inspect.signature(module.augmentation).parameters)
    defaults = {row[0].strip("`"): row[1] for row in rows("Augmentation")[len(known) + 2 :]}
    assert [defaults[key] for key in ("target", "full_kimg")] == [f"{fields[key].default:g}" for key in ("target", "full_kimg")]
    for name in known:
        default = registry.find("gan_core.augmentations", name).PROBABILITY
        assert f"{'null' if default is None else f'{default:g}'} for `{name}`" in defaults["probability"]


def test_every_space_is_in_the_table_with_the_keys_that_it_searches():
    assert sorted(names("Search spaces")[: len(rows("Search spaces"))]) == registry.choices("tune_spaces")
    for row in rows("Search spaces"):
        name = row[0].strip("`")
        space = registry.find("tune_spaces", name).SPACE
        said = re.findall(r"`([^`]+)`", row[1])
        assert all(any(fnmatch(key, pattern) for pattern in said) for key in space) or name == "smoke"
        assert all(any(fnmatch(key, pattern) for key in space) for pattern in said)


def test_every_sweep_setting_is_in_the_table_with_its_default():
    check_settings("Sweep settings", SweepConfig.model_fields)


def test_every_setting_of_packs_is_in_the_table_with_its_default():
    check_settings("Packed trials", TrialsConfig.model_fields)


def check_settings(heading, fields):
    assert names(heading) == list(fields)
    for row in rows(heading):
        default = fields[row[0].strip("`")].default
        written = ", ".join(default) if isinstance(default, tuple) else f"{default:g}" if isinstance(default, float) else str(default)
        assert row[1] == ("null" if default is None else written)


def test_every_option_of_sample_is_in_the_table():
    options = [action.option_strings[-1] for action in sample.parser()._actions if action.option_strings]
    assert sorted(names("Samples")[: len(rows("Samples"))]) == sorted(set(options) - {"--help"})
    said = dict(zip(names("Samples"), (row[1] for row in rows("Samples")), strict=False))
    defaults = {"--candidates": shows.CANDIDATES, "--starts": shows.STARTS, "--steps": shows.STEPS, "--batch-size": many.BATCH_SIZE}
    assert {name: int(said[name]) for name in defaults} == defaults
    deeds = {f"--{name}" for name in sample.DEEDS}
    assert {name for name, default in said.items() if default == "-"} == deeds | {"--out"}


def test_every_option_of_submit_is_in_the_table_with_its_default():
    parser = submit.parser()
    options = {action.option_strings[-1]: action for action in parser._actions if action.option_strings and action.dest != "help"}
    said = {row[0].strip("`"): row[1] for row in rows("Jobs") if row[0].startswith("`--")}
    assert list(said) == [name for name in said if name in options] and set(said) == set(options)
    for name, action in options.items():
        if said[name] not in ("-", "made", "by the environment"):
            assert f"{action.default:g}" if isinstance(action.default, float) else str(action.default) == said[name]


def test_every_variant_was_measured():
    assert names("Choosing") == list(VARIANTS)


def test_every_score_is_in_the_table_with_its_better_side_and_its_error():
    said, metric = {}, ""
    for row in rows("Scores"):
        if len(row) == 3:  # the table of extractors
            break
        metric = row[0].strip("`") or metric
        for cell in row[1].split(", "):
            name, marks = re.fullmatch(r"`(\w+)`([*+]*)", cell).groups()
            said.setdefault(metric, {})[name] = (None if row[2] == "-" else row[2], "*" in marks, "+" in marks)
    assert said == {
        metric: {name: (better, measure.plain, has_error(metric, name)) for name, better in measure.better.items()}
        for metric, measure in MEASURES.items()
    }


def has_error(metric, name):
    """Whether the metric's file writes such a key."""
    source = inspect.getsource(importlib.import_module(f"gan_core.metrics.{metric}"))
    written = set(re.findall(r'f?"(\w+?)(?:_\{extractor\})?_error"', source))
    if 'f"{name}_{extractor}_error"' in source or 'f"{name}_error"' in source:
        written |= {"precision", "recall"} if metric == "precision_recall" else {metric}
    return name in written


def test_every_extractor_is_in_the_table():
    said = [row[0].strip("`") for row in rows("Scores") if len(row) == 3 and row[0].startswith("`")]
    assert sorted(said) == registry.choices("gan_core.extractors")


def test_every_logged_metric_is_in_the_table_and_every_metric_there_is_logged():
    penalties = {f"regularizers__{regularizer.weight_key}": 0.1 for regularizer in REGULARIZERS.values()}
    band = {"advantage_low": 0.1, "advantage_high": 0.9, "adjust_kimg": 0.016}
    found = logged(**penalties, regularizers__r1_interval=2, **{f"step_ratio_schedule__{key}": value for key, value in band.items()})
    found |= logged(data__name="ring2d", data__count=500, network__generator__output="linear")
    found |= logged(augment__name="ada")
    path_length = {"regularizers__path_length_weight": 2.0, "regularizers__path_length_interval": 2}
    found |= logged(network={"name": "stylegan2", "z_dim": 4, "generator": SMALL, "discriminator": SMALL}, **path_length)
    of_the_pipelines = {name for name in names("Metrics") if name.startswith(("startup/", "timing/"))}  # tested beside the command
    of_the_pipelines |= {"progress/images_seen", apart.CLOCK}
    assert set(names("Metrics")) == found | of_the_pipelines
