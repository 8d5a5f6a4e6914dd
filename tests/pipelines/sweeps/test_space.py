"""Spaces joined, restricted and sampled, and what points become in a config."""

import pytest
from ray import tune

from gan_core.config import GanConfig
from gan_core.overrides import merge, validate
from pipelines.sweeps import space as spaces
from tests.support import tiny_tree

SIZES = {"resolution": 8, "batch_size": 16}


def compose(words):
    return spaces.compose(words, **SIZES)


def test_spaces_are_joined_by_plus():
    joined = compose("loss_x_ratio+optimizer")
    assert set(joined) == set(compose("loss_x_ratio")) | set(compose("optimizer"))
    assert len(joined) == 8


def test_two_spaces_that_search_one_key_are_refused():
    with pytest.raises(ValueError, match=r"space loss_x_ratio\+smoke: two of these search loss\.name; take one of them"):
        compose("loss_x_ratio+smoke")


def test_an_unknown_space_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown tune_space name 'los_x_ratio' \(did you mean 'loss_x_ratio'\?\); choices: arch"):
        compose("los_x_ratio")


def test_the_gamma_ladder_is_the_heuristic_times_a_quarter_to_four():
    """0.0002 * resolution^2 / batch (2006.06676, appendix C): 8 * 8 / 16 = 4."""
    ladder = compose("regularization")["regularizers.r1_gamma"].categories
    assert ladder == pytest.approx([0.0002 * 4 * factor for factor in (0.25, 0.5, 1, 2, 4)], rel=1e-12)


def test_a_list_restricts_and_one_value_takes_a_key_out():
    restricted = spaces.restrict(compose("loss_x_ratio"), {"loss.name": ["hinge", "minimax"], "step_ratio": "5:1"})
    assert spaces.grid(restricted) == [
        {"loss.name": "hinge", "step_ratio": "5:1"},
        {"loss.name": "minimax", "step_ratio": "5:1"},
    ]


def test_values_of_a_range_can_be_given():
    restricted = spaces.restrict(compose("optimizer"), {"optimizer.generator.lr": [1e-4, 1e-3]})
    assert restricted["optimizer.generator.lr"].categories == [1e-4, 1e-3]


@pytest.mark.parametrize(
    ("key", "given", "message"),
    [
        ("loss.name", [], r"loss\.name=\[\]: nothing is left to search; give values among: f_gan, "),
        ("loss.name", ["hing"], r"loss\.name: 'hing' is not in this space \(did you mean 'hinge'\?\); it holds f_gan, "),
        (
            "loss.name",
            ["r3gann"],
            r"'r3gann' is not in this space \(did you mean 'r3gan'\?\); it holds .*; variants may be named too: dcgan, ",
        ),
        ("step_ratio", ["1:1", "1:1"], r"step_ratio: a value is given twice"),
        ("optimizer.generator.lr", [1.0], r"optimizer\.generator\.lr: 1\.0 is not in this space; it holds 5e-05 to 0\.005"),
    ],
)
def test_a_restriction_that_leaves_nothing_or_is_not_in_the_space_is_refused(key, given, message):
    space = compose("loss_x_ratio+optimizer")
    with pytest.raises(ValueError, match=message):
        spaces.restrict(space, {key: given})


@pytest.mark.parametrize("base", [{}, {"variant": "wgan_gp"}])
def test_among_the_losses_may_be_variants_each_with_what_belongs_to_it(base):
    tree = merge(tiny_tree(), base)
    (hinge, r3gan) = spaces.grid(spaces.restrict(compose("loss_x_ratio"), {"loss.name": ["hinge", "r3gan"], "step_ratio": "2:1"}))
    bare = validate(merge(tree, spaces.overrides_of(hinge, tree)), GanConfig)
    assert (bare.loss.name, bare.variant, bare.step_ratio, bare.regularizers.in_force) == ("hinge", None, "2:1", [])
    game = validate(merge(tree, spaces.overrides_of(r3gan, tree)), GanConfig)
    assert (game.loss.name, game.variant, game.step_ratio, game.regularizers.in_force) == ("relativistic", "r3gan", "2:1", ["r1", "r2"])


def test_a_grid_holds_every_combination_once():
    points = spaces.grid(compose("loss_x_ratio"))
    assert len(points) == 17 * 6
    assert len({tuple(point.items()) for point in points}) == 17 * 6


def test_a_grid_over_a_range_is_refused():
    with pytest.raises(ValueError, match=r"grid needs choices, and optimizer\.generator\.lr is a range; give optimizer\.generator\.lr=\["):
        spaces.grid(compose("optimizer"))


def test_random_points_are_repeatable_and_no_choice_comes_twice():
    space = compose("loss_x_ratio")
    points = spaces.sample(space, 40, seed=3)
    assert points == spaces.sample(space, 40, seed=3) != spaces.sample(space, 40, seed=4)
    assert len({tuple(point.items()) for point in points}) == 40
    assert len(spaces.sample(space, 1000, seed=0)) == 102


def test_random_points_of_ranges_fill_them():
    rates = [point["optimizer.generator.lr"] for point in spaces.sample(compose("optimizer"), 300, seed=0)]
    assert 5e-5 <= min(rates) < 1e-4
    assert 2.5e-3 < max(rates) <= 5e-3
    assert 0.4 < sum(rate < 5e-4 for rate in rates) / 300 < 0.6  # half of them below the geometric mean


def test_pbt_changes_rates_weights_and_the_ratio_and_nothing_else():
    found = spaces.perturbable(compose("loss_x_ratio+optimizer+regularization"))
    assert "loss.name" not in found
    assert found["step_ratio"] == ["1:2", "1:1", "2:1", "3:1", "5:1", "8:1"]
    assert found["regularizers.r2_gamma"][0] == 0.0
    assert sorted(found["regularizers.r2_gamma"]) == found["regularizers.r2_gamma"]
    assert isinstance(found["optimizer.generator.lr"], tune.search.sample.Float)
    with pytest.raises(ValueError, match=r"pbt changes learning rates, .*, and the space searches network\.name"):
        spaces.perturbable(compose("architecture"))


def test_perturbed_numbers_are_put_back_into_their_ranges():
    space = compose("optimizer")
    point = {"optimizer.generator.lr": 6e-3, "optimizer.discriminator.lr": 4e-5, "optimizer.generator.beta1": 0.5}
    assert spaces.within(point, space) == {
        "optimizer.generator.lr": 5e-3,
        "optimizer.discriminator.lr": 5e-5,
        "optimizer.generator.beta1": 0.5,
    }


def test_a_space_of_another_network_is_refused():
    space = compose("architecture")
    del space["network.name"]
    with pytest.raises(ValueError, match=r"the config has no key 'network\.generator\.width'.*its network is mlp"):
        spaces.require_known(space, validate(tiny_tree(), GanConfig))
