import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gan_core.config import GanConfig
from gan_core.overrides import differences_that_matter, dumps, flatten, load, loads, merge, parse, unflatten, validate
from tests.support import tiny_config, tiny_tree

words = st.text(st.characters(exclude_categories=["C", "Z"]))
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), words)


@given(st.dictionaries(st.from_regex(r"[a-z_]\w*", fullmatch=True), st.one_of(scalars, st.lists(scalars))))
def test_dumped_trees_load_as_they_were(tree):
    assert loads(dumps(tree)) == tree


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5:1", "5:1"),
        ("61", 61),
        ("2e-4", 2e-4),
        ("1E3", 1000.0),
        ("-.5", -0.5),
        (".inf", math.inf),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("null", None),
        ("", None),
        ("007", "007"),
        ("1_000", "1_000"),
        ("[1, 2e-4, 1:2]", [1, 2e-4, "1:2"]),
        ("a=b", "a=b"),
        ("2026-11-22", "2026-11-22"),
    ],
)
def test_values_are_read_as_yaml_1_2(text, value):
    assert parse(f"some.key={text}") == ("some.key", value)


@pytest.mark.parametrize("word", ["key", "=1", "a..b=1", ".a=1", "a b=1", "a=[1", "a=: :"])
def test_what_is_not_key_equals_value_is_refused(word):
    with pytest.raises(ValueError):
        parse(word)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "step_ratio": st.sampled_from(["1:1", "5:1", "1:2"]),
            "total_kimg": st.floats(1e-3, 1e6),
            "optimizer.generator.lr": st.floats(1e-9, 1.0),
            "ema_halflife_kimg": st.none() | st.floats(1e-3, 1e3),
            "network.name": st.sampled_from(["mlp", "dcgan"]),
            "data.name": st.sampled_from(["digits", "ring2d"]),
            "loss.name": st.sampled_from(["minimax", "non_saturating"]),
            "seed": st.integers(0, 2**40),
        },
    )
)
def test_flatten_is_undone_by_unflatten_and_its_values_are_overrides(overrides):
    config = validate(merge(tiny_tree(), overrides), GanConfig)
    flat = flatten(config)
    assert validate(unflatten(flat), GanConfig) == config
    again = validate(merge(tiny_tree(), dict(parse(f"{key}={text}") for key, text in flat.items())), GanConfig)
    assert again == config


def test_params_have_no_quotes_that_the_user_would_have_to_type():
    assert flatten(tiny_config(step_ratio="5:1"))["step_ratio"] == "5:1"


def test_files_keep_ratios_in_quotes_for_readers_of_yaml_1_1():
    assert dumps({"step_ratio": "5:1"}) == "step_ratio: '5:1'\n"


def test_merging_leaves_the_tree_it_was_given(tree):
    merge(tree, {"batch_size": 1, "network.generator.hidden_width": 3, "new.section.key": 1})
    assert tree == tiny_tree()


def test_an_override_cannot_go_below_a_value(tree):
    with pytest.raises(ValueError, match="'batch_size.x': 'batch_size' holds the value 16"):
        merge(tree, {"batch_size.x": 1})


def test_a_missing_file_and_a_list_are_refused(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        load(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(ValueError, match="must hold keys and values, found list"):
        load(tmp_path / "list.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1")
    with pytest.raises(ValueError, match="not valid YAML"):
        load(tmp_path / "bad.yaml")


def test_yaml_cannot_make_python_objects():
    with pytest.raises(ValueError, match="could not determine a constructor"):
        loads("a: !!python/object/apply:os.system ['true']")


def test_only_differences_that_change_the_computation_matter():
    before, after = flatten(tiny_config()), flatten(tiny_config(total_kimg=9, schedule__report_kimg=7, seed=3, step_ratio="2:1"))
    assert differences_that_matter(before, after) == ["seed: 0 -> 3", "step_ratio: 1:1 -> 2:1"]
