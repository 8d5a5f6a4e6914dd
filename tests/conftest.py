"""Shapes in annotations are enforced in the test run: this hook must come before anything imports gan_core."""

import os

from jaxtyping import install_import_hook

install_import_hook("gan_core", "beartype.beartype")

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two busy processes of two threads each are 40 times slower on two cores
os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # a test cluster lives for seconds on loopback; no token files in the home folder
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1")

import pytest
from hypothesis import settings

from tests.support import tiny_tree

settings.register_profile("raygan", deadline=None)  # an import in the first example takes seconds on a busy machine
settings.load_profile("raygan")


@pytest.fixture(autouse=True)
def caches_of_its_own(tmp_path_factory, monkeypatch):
    """No test reads or fills the user's cache of decoded images."""
    monkeypatch.setenv("RAYGAN_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def tree():
    """A config tree that trains in a second."""
    return tiny_tree()
