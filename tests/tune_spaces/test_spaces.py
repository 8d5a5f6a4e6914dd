import random

import numpy as np
import pytest

from gan_core import registry
from gan_core.config import GanConfig
from gan_core.losses import LOSSES
from gan_core.overrides import merge, validate
from gan_core.variants import VARIANTS
from tests.support import tiny_tree


@pytest.mark.parametrize("name", registry.choices("tune_spaces"))
def test_two_hundred_points_of_every_space_are_valid_configs(name):
    space = registry.find("tune_spaces", name).SPACE
    random.seed(0)
    np.random.seed(0)
    seen = set()
    for _ in range(200):
        point = {key: domain.sample() for key, domain in space.items()}
        validate(merge(tiny_tree(), point), GanConfig)
        seen.add(tuple(sorted(point.items())))
    assert len(seen) > 1


def test_loss_x_ratio_holds_every_loss():
    domain = registry.find("tune_spaces", "loss_x_ratio").SPACE["loss.name"]
    assert set(domain.categories) == set(LOSSES)


def test_variant_x_ratio_holds_every_variant():
    domain = registry.find("tune_spaces", "variant_x_ratio").SPACE["variant"]
    assert set(domain.categories) == set(VARIANTS)
