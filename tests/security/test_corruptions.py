"""Whatever a config or a command line holds, it ends in a clear error or in what was asked for: no traceback, no hang, nothing left."""

import contextlib
import io
import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from pipelines import cli
from pipelines.sweeps import preview
from tests.security import corruptions

FEW, MANY = 60, 2000  # of the default run, and of the slow one, which are divided among the three kinds
CONFIGS = corruptions.whole_configs()
KINDS = {
    "trees": (corruptions.trees(CONFIGS), 0.4),
    "texts": (corruptions.texts(CONFIGS), 0.3),
    "commands": (corruptions.command_lines(cli.COMMANDS), 0.3),
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(preview, "text", lambda plan: f"{plan.planned} trials")  # measuring what they cost takes seconds
    return tmp_path


def outcome(words):
    """Exit status and output of a command in this process; argparse leaves by SystemExit."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = cli.main(words)
        except SystemExit as left:
            status = left.code
    return status, out.getvalue(), err.getvalue()


def require_clear(words, status, out, err, counts):
    """It succeeded, or one message says what is wrong."""
    assert status in (0, 2), (words, status, err)
    assert "Traceback" not in out + err, words
    if status == 2:
        assert f"raygan {words[0]}: " in err, (words, err)
        assert not out, words
        message = err.split(f"raygan {words[0]}: ", 1)[1]
        assert 10 < len(message.strip()) < 4000, (words, err)
        usage = err.startswith("usage:")  # argparse repeats what was typed, to whoever typed it
        assert usage or "planted" not in err, (words, err)
    counts[status] += 1


def look(kind, number, here):
    """Try `number` corruptions of a kind; returns how many were valid (0) and refused (2)."""
    strategy, _ = KINDS[kind]
    counts = Counter()
    before = set(os.listdir(here)) | {"mlflow.db", "bad.yaml"}

    @settings(max_examples=number, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def one(corruption):
        words = corruption
        if kind != "commands":
            Path("bad.yaml").write_bytes(corruption)
            words = ["train", "bad.yaml", "--print-config"]
        require_clear(words, *outcome(words), counts)
        assert set(os.listdir(here)) <= before, words

    one()
    print(f"{kind}: {counts[0]} valid, {counts[2]} refused of {sum(counts.values())}")
    return counts


@pytest.mark.parametrize("kind", KINDS)
def test_some_corruptions_end_in_a_clear_error_or_in_what_was_asked_for(here, kind):
    counts = look(kind, FEW, here)
    assert counts[2] >= FEW // 3
    assert sum(counts.values()) >= FEW * 0.9


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", KINDS)
def test_two_thousand_corruptions_end_in_a_clear_error_or_in_what_was_asked_for(here, kind):
    number = int(MANY * KINDS[kind][1])
    counts = look(kind, number, here)
    assert sum(counts.values()) >= number * 0.95
    assert 0 < counts[0] < 0.9 * number


SAID = [
    ("a: &a [1]\n" + "".join(f"{new}: &{new} [{', '.join(['*' + old] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi")), "references"),
    ("data: &d\n  name: *d\n", "references to itself"),
    ("total_kimg: 1\ntotal_kimg: 2\n", "the key 'total_kimg' is given twice"),
    ("1: 2", "keys are text, given 1"),
    ("a: !!set {b}", "given a set"),
    ("a: !!int xx", "not what its tag says"),
    ("a: !!python/object/apply:os.system ['touch canary']", "could not determine a constructor"),
    ("a: " + "9" * 5000, "not what its tag says"),
    ('a: "\\0"', "characters that are no text"),
    ("\xff", "must hold keys and values"),
    ("[" * 100_000, "nests brackets or keys too deeply"),
]


@pytest.mark.parametrize(("text", "sentence"), SAID, ids=[sentence for _, sentence in SAID])
def test_what_yaml_has_for_strangers_is_refused(here, text, sentence):
    Path("bad.yaml").write_text(text)
    status, out, err = outcome(["train", "bad.yaml", "--print-config"])
    assert (status, out) == (2, "")
    assert sentence in err
    assert not Path("canary").exists()


def test_a_config_that_is_no_text_is_refused(here):
    Path("bad.yaml").write_bytes(b"total_kimg: \xdc")
    status, _, err = outcome(["train", "bad.yaml"])
    assert status == 2
    assert "is no text in UTF-8 (at byte 12)" in err


@pytest.mark.parametrize("command", ["train", "evaluate", "sample", "report", "prepare"])
def test_names_that_no_file_can_have_are_refused(here, command):
    long = "9" * 5000
    rest = {"sample": ["--grid", "g.png"], "prepare": ["set", "--resolution", "8"], "report": ["--out", f"r/{long}"]}
    status, _, err = outcome([command, long, *rest.get(command, [])])
    assert status == 2
    assert len(err) < 1000 or command == "report"
    assert "cannot be a path" in err or "no sweep" in err
