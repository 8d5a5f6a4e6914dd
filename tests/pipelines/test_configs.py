import re

import pytest

from gan_core.building import build_networks, load_dataset
from gan_core.fitting import require_fitting
from gan_core.overrides import flatten, merge, parse, unflatten, validate
from pipelines.config import CONFIGS, JobConfig, load_named, require_resumable
from tests.support import noise_images, write_parquet

NAMES = sorted(path.stem for path in CONFIGS.glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_every_packaged_config_builds(name, tmp_path):
    size, channels = {"cifar10": (32, 3), "images64": (80, 3), "images256": (260, 3)}.get(name, (28, 1))
    encoded, _ = noise_images(4, size=size, channels=channels)
    path = str(write_parquet(tmp_path / "a.parquet", encoded, [0] * 4))
    given = {key: {"data.path": path} for key in ("mnist", "cifar10", "images64", "images256")}
    given["stacked_mnist"] = {"data.path": path, "data.count": 8, "evaluation.extractor.path": path}
    config = validate(merge(load_named(name), given.get(name, {})), JobConfig)
    config.require_divisible(config.ray.num_workers)
    dataset = load_dataset(config.gan())
    require_fitting(config.gan(), dataset, *build_networks(config.gan(), dataset), ranks=config.ray.num_workers)
    assert validate(unflatten(flatten(config)), JobConfig) == config


@pytest.mark.parametrize("name", NAMES)
def test_the_first_line_of_a_config_is_the_command_that_runs_it(name):
    first = (CONFIGS / f"{name}.yaml").read_text().splitlines()[0]
    assert re.fullmatch(rf"# raygan train {name}( \S+=\S+)*", first)


def test_resuming_may_change_the_budget_and_the_machines_but_not_the_game():
    before = validate(load_named("digits"), JobConfig)
    after = validate(
        merge(load_named("digits"), dict(map(parse, ["total_kimg=999", "ray.num_workers=1", "schedule.report_kimg=9"]))), JobConfig
    )
    require_resumable(flatten(before), flatten(after), "abc")
    changed = validate(merge(load_named("digits"), {"batch_size": 64}), JobConfig)
    with pytest.raises(ValueError, match="batch_size: 128 -> 64"):
        require_resumable(flatten(before), flatten(changed), "abc")
