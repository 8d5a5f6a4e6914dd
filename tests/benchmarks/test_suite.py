"""The suite runs pieces as processes, tells what failed, and goes on."""

import sys
from importlib.util import find_spec

import pytest

from tests.benchmarks import suite
from tests.benchmarks.suite import Piece


def test_every_piece_is_a_program_here():
    for piece in suite.PIECES.values():
        assert find_spec(f"tests.benchmarks.{piece.module}") is not None


def test_a_piece_that_fails_or_does_not_end_is_told_and_the_others_run(tmp_path, monkeypatch, capsys):
    (tmp_path / "tests" / "benchmarks").mkdir(parents=True)
    (tmp_path / "tests" / "__init__.py").touch()
    (tmp_path / "tests" / "benchmarks" / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for name, text in (
        ("good", "import sys; print('| 1 |', *sys.argv[1:])"),
        ("bad", "print('some'); raise SystemExit('no such disk')"),
        ("slow", "import time; print('begun', flush=True); time.sleep(60)"),
    ):
        (tmp_path / "tests" / "benchmarks" / f"{name}.py").write_text(text)
    monkeypatch.setattr(suite, "ROOT", tmp_path)
    monkeypatch.setattr(suite, "PIECES", {"bad": Piece("bad"), "slow": Piece("slow", limit=3.0), "good": Piece("good", ("--a", "b"))})
    assert suite.main(["--out", str(tmp_path / "report.md")]) == 1
    report = (tmp_path / "report.md").read_text()
    assert "some\nno such disk" in report and "**failed with 1**" in report
    assert "begun" in report and "ended after 3 s" in report and "**failed with 124**" in report
    assert "`python -m tests.benchmarks.good --a b`" in report and "| 1 | --a b" in report
    assert "failed: bad, slow." in report and f"Python {sys.version.split()[0]}" in report
    assert report.strip() == capsys.readouterr().out.strip()


def test_an_unknown_piece_names_the_choices(capsys):
    with pytest.raises(SystemExit):
        suite.main(["step"])
    assert "steps, memory, data" in capsys.readouterr().err
