"""What is imported before it is needed: each of these packages takes a process between a quarter of a second and two."""

import subprocess
import sys

import pytest

DEAR = (
    "torch",
    "ray",
    "mlflow",
    "pandas",
    "numpy",
    "torchvision",
    "sklearn",
    "scipy",
    "scipy.stats",
    "matplotlib",
    "pydantic",
    "pyarrow",
    "PIL",
)
COMMANDS = ("train", "sweep", "report", "evaluate", "sample")


def imported(program, *words):
    """Exit status of a program, and which dear packages its process had imported at its end, however it ended."""
    whole = f"import sys\ntry:\n    {program}\nfinally:\n    print([name for name in {DEAR} if name in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", whole, *words], capture_output=True, text=True, timeout=60)
    return done.returncode, next(line for line in reversed(done.stderr.splitlines()) if line.startswith("["))


@pytest.mark.parametrize(("words", "status"), [(("--help",), 0), ((), 2), (("trian",), 2), *(((name, "--help"), 0) for name in COMMANDS)])
def test_help_and_unknown_commands_import_nothing_dear(words, status):
    assert imported("from pipelines.cli import main; sys.exit(main())", *words) == (status, "[]")


@pytest.mark.parametrize("name", COMMANDS)
def test_wrong_options_are_found_before_anything_dear_is_imported(name):
    assert imported("from pipelines.cli import main; sys.exit(main())", name, "--no-such-option") == (2, "[]")


def test_a_misspelt_key_is_found_before_ray_and_mlflow_are_imported():
    status, names = imported("from pipelines.cli import main; sys.exit(main())", "train", "digits", "totalkimg=1")
    assert status == 2
    assert "torch" in names  # the keys are those of the networks' own functions
    assert not {"ray", "mlflow", "pandas", "torchvision", "sklearn", "scipy", "matplotlib"} & set(eval(names))


def test_a_rank_imports_mlflow_only_to_write():
    status, names = imported("import pipelines.rank, pipelines.worker, pipelines.shelf, pipelines.gauges")
    assert status == 0
    assert not {"mlflow", "torchvision", "sklearn", "scipy", "matplotlib"} & set(eval(names))


def test_a_trial_imports_no_statistics_and_no_pictures():
    status, names = imported("import pipelines.sweeps.hosts, pipelines.sweeps.trial")
    assert status == 0
    assert not {"torchvision", "sklearn", "scipy.stats", "matplotlib"} & set(eval(names))


def test_rays_controller_does_without_pytorch():
    status, names = imported("import pipelines.lean, pipelines.forgiving, pipelines.process_group, pipelines.board, pipelines.apart")
    assert status == 0
    assert "ray" in names
    assert not {"torch", "mlflow"} & set(eval(names))
