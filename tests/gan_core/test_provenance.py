import json

import pytest

from gan_core.provenance import METRICS_VERSION, Provenance, require_same
from tests.support import provenance

ONE = provenance()
OTHERS = {
    "extractor": "pixels",
    "weights_hash": "c" * 64,
    "resize": "bilinear-antialias",
    "dtype": "bfloat16",
    "real_count": 500,
    "fake_count": 501,
    "split": "train",
    "seed": 1,
    "content_hash": "d" * 64,
    "metrics_version": METRICS_VERSION + 1,
}


def changed(**fields):
    return Provenance.from_dict(ONE.as_dict() | fields)


def test_it_survives_json_and_mlflow_s_text():
    assert Provenance.from_dict(json.loads(json.dumps(ONE.as_dict()))) == ONE
    assert Provenance.from_dict({key: str(value) for key, value in ONE.as_dict().items()}) == ONE
    assert ONE.as_dict()["metrics_version"] == METRICS_VERSION


def test_equal_provenance_may_be_compared():
    assert require_same(ONE, changed(), "fd_lenet") is None


def test_every_field_matters():
    assert set(OTHERS) == set(ONE.as_dict())
    for field, value in OTHERS.items():
        with pytest.raises(ValueError) as caught:
            require_same(ONE, changed(**{field: value}), what="fd_lenet")
        lines = str(caught.value).splitlines()
        assert lines[0].startswith("two values of fd_lenet cannot be compared")
        assert lines[1:-1] == [f"  {field}: {getattr(ONE, field)} and {value}"]
        assert lines[-1] == "evaluate both with the same settings: raygan evaluate"


def test_all_fields_that_differ_are_named_at_once():
    with pytest.raises(ValueError, match=r"real_count: 10000 and 500\n  fake_count: 10000 and 501\n  split: test and train\n"):
        require_same(ONE, changed(real_count=500, fake_count=501, split="train"), what="kid_lenet")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights_hash": ""}, r"provenance\.weights_hash: string should have at least 1 character"),
        ({"real_count": -1}, r"provenance\.real_count: input should be greater than or equal to 0, given -1"),
        ({"seed": "many"}, r"provenance\.seed: input should be a valid integer.*given 'many'"),
        ({"sed": 1}, r"unknown key 'provenance\.sed' \(did you mean 'seed'\?\)"),
    ],
)
def test_wrong_fields_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        changed(**change)


@pytest.mark.parametrize("field", OTHERS)
def test_a_missing_field_is_refused(field):
    given = ONE.as_dict()
    del given[field]
    with pytest.raises(ValueError, match=rf"provenance\.{field} is required and was not given"):
        Provenance.from_dict(given)
