"""Joining a cluster: the token that it may ask for, and what is said where it does not answer."""

import pytest
from ray._private.authentication.authentication_utils import is_token_auth_enabled
from ray._raylet import Config
from ray.exceptions import AuthenticationError

from pipelines import cluster


def test_a_cluster_that_wants_a_token_is_a_named_failure(monkeypatch):
    def init(**given):
        raise AuthenticationError("a token is asked for")

    monkeypatch.setattr(cluster.ray, "init", init)
    with pytest.raises(ConnectionError, match="Ray: a token is asked for"), cluster.connected(dashboard=False):
        pass


@pytest.fixture
def joining(monkeypatch):
    """Joining a cluster that does not answer: returns what Ray's mode was then, and the error."""
    for name in (cluster.AUTH_MODE, *cluster.TOKENS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_ADDRESS", "head.example:6379")
    modes = []

    def init(**given):
        modes.append(is_token_auth_enabled())
        raise ConnectionError("Failed to connect to Ray cluster at 192.0.2.2:6379")

    def join():
        Config.initialize("")
        with pytest.raises(ConnectionError) as raised, cluster.connected(dashboard=False):
            pass
        return modes.pop(), str(raised.value)

    monkeypatch.setattr(cluster.ray, "init", init)
    yield join
    monkeypatch.undo()
    Config.initialize("")


@pytest.mark.parametrize("name", ["RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"])
def test_a_token_at_hand_is_shown_to_the_cluster_that_is_joined(joining, monkeypatch, tmp_path, name):
    (tmp_path / "token").write_text("planted-7731")
    monkeypatch.setenv(name, {"RAY_AUTH_TOKEN": "planted-7731"}.get(name, str(tmp_path / "token")))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    mode, said = joining()
    assert (mode, said.split("; ")[1]) == (False, "if the cluster asks for a token, export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=...")
    monkeypatch.delenv("RAY_AUTH_MODE")
    mode, said = joining()
    assert (mode, said.split("; ")[1]) == (True, "if it is there, it refuses the token: give the one that it was started with")
    assert "planted-7731" not in said


def test_an_address_that_does_not_answer_is_named_as_it_was_typed_with_the_token_to_give(joining):
    assert joining() == (
        False,
        "RAY_ADDRESS=head.example:6379: Failed to connect to Ray cluster at 192.0.2.2:6379; if the cluster asks for a token, export "
        "RAY_AUTH_MODE=token RAY_AUTH_TOKEN=...",
    )
