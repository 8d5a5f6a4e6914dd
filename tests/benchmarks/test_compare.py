"""The comparison of commits, through processes and clocks: equal code passes, and code that is a tenth slower is found."""

import shutil
from argparse import Namespace

import pytest

from tests.benchmarks import compare
from tests.benchmarks.turns import ROOT

# A tenth of each round's own processor time is burnt after it.
SLOWER = """
import time
from gan_core.trainer import Trainer
_plain = Trainer._round
def _slower(trainer):
    began = time.process_time()
    _plain(trainer)
    until = 1.1 * time.process_time() - 0.1 * began
    while time.process_time() < until:
        pass
Trainer._round = _slower
"""


@pytest.fixture
def options():
    return Namespace(starts=compare.STARTS, seconds=compare.SECONDS, threads=1)


def copied(folder, addition=""):
    """A folder like that of a commit whose gan_core is this one's, with something added."""
    folder.mkdir()
    (folder / "tests").symlink_to(ROOT / "tests")
    shutil.copytree(ROOT / "gan_core", folder / "gan_core", ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / "gan_core" / "__init__.py").open("a") as file:
        file.write(addition)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_equal_code_passes_and_a_tenth_slower_is_found(tmp_path, options):
    a, same, slower = copied(tmp_path / "a"), copied(tmp_path / "same"), copied(tmp_path / "slower", SLOWER)
    found, alarms = compare.judge(compare.measure((a, same), ["mlp"], tmp_path, options))
    assert not alarms, found
    found, alarms = compare.judge(compare.measure((a, slower), ["mlp"], tmp_path, options))
    assert ("mlp", "cpu") in alarms, found


def test_a_commit_is_checked_out_and_put_away_again(tmp_path):
    with compare.checked_out("HEAD", tmp_path / "a") as root:
        assert (root / "gan_core" / "trainer.py").is_file()
        assert (root / "gan_core").resolve() != ROOT / "gan_core"
        assert (root / "tests").resolve() == ROOT / "tests"
        tree = root / "tree"
    assert not tree.exists()
    with compare.checked_out(None, tmp_path / "b") as root:
        assert (root / "gan_core").resolve() == ROOT / "gan_core"


def test_a_commit_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no-such-commit cannot be checked out"), compare.checked_out("no-such-commit", tmp_path / "a"):
        pass
