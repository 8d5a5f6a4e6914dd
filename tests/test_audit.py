"""The dependency audit says what it did: never clean for nothing."""

import json
import subprocess
from datetime import date
from types import SimpleNamespace

import pytest

from tests import audit

TODAY = date(2026, 11, 25)
HOLE = {"id": "GHSA-aaaa-bbbb-cccc", "aliases": ["CVE-2026-1"], "fix_versions": ["1.1"], "description": "bad"}


def answer(*packages):
    return audit.Answer(json.dumps({"dependencies": list(packages), "fixes": []}), "WARNING: users are encouraged to hash")


def package(name="torch", version="1.0", vulns=()):
    return {"name": name, "version": version, "vulns": list(vulns)}


def skipped(name="ray"):
    return {"name": name, "skip_reason": f"Dependency not found on PyPI and could not be audited: {name} (1)"}


def accepted(until, id="CVE-2026-1", package="torch"):
    return [audit.Acceptance(package, id, "it is never called", until)]


def test_a_clean_answer_passes_and_says_how_many_were_audited():
    verdict = audit.judge(answer(package(), package("numpy"), skipped()), [], TODAY)
    assert verdict == (0, ["2 of 3 packages audited, 1 were skipped, 0 to mend, 0 accepted"])


def test_a_known_vulnerability_fails_and_says_where_it_is_mended():
    status, lines = audit.judge(answer(package(vulns=[HOLE])), [], TODAY)
    assert status == 1
    assert "torch 1.0 has GHSA-aaaa-bbbb-cccc = CVE-2026-1; mended in 1.1: raise the pin" in lines[0]
    assert lines[-1] == "1 of 1 packages audited, 1 to mend, 0 accepted"


@pytest.mark.parametrize("name", ["CVE-2026-1", "GHSA-aaaa-bbbb-cccc"])
def test_an_accepted_one_passes_until_its_day_and_is_told(name):
    found = answer(package(vulns=[HOLE]))
    status, lines = audit.judge(found, accepted(date(2026, 11, 26), name), TODAY)
    assert status == 0
    assert lines == [
        "torch 1.0 has GHSA-aaaa-bbbb-cccc = CVE-2026-1, accepted until 2026-11-26: it is never called",
        "1 of 1 packages audited, 0 to mend, 1 accepted",
    ]
    status, lines = audit.judge(found, accepted(TODAY, name), TODAY)
    assert status == 1
    assert "accepted until 2026-11-25 (it is never called); mended in 1.1: look again" in lines[0]


def test_an_acceptance_is_for_its_package_only():
    assert audit.judge(answer(package(vulns=[HOLE])), accepted(date(2027, 1, 1), package="numpy"), TODAY).status == 1


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (answer(skipped(), skipped("torch")), "none of 2 packages is known to the service"),
        (answer(), "none of 0 packages"),
        (audit.Answer("", "ERROR:pip_audit._cli:Could not connect to PyPI's vulnerability feed"), "pip-audit gave no answer"),
        (audit.Answer("", "requests.exceptions.ProxyError: HTTPSConnectionPool(...)"), "pip-audit gave no answer"),
        (audit.Answer("<html>", "requests.exceptions.HTTPError: 503 Server Error: Service Unavailable"), "pip-audit gave no answer"),
        (audit.Answer("", "timed out after 120 s"), "pip-audit gave no answer"),
    ],
)
def test_an_audit_of_nothing_neither_passes_in_silence_nor_fails(given, why):
    status, (line,) = audit.judge(given, [], TODAY)
    assert status == 0
    assert line.startswith(f"NOTHING WAS AUDITED: {why}")
    assert "no clean bill" in line
    assert (given.error in line) == ("no answer" in why)


@pytest.mark.parametrize("error", ["", "ERROR:pip_audit._cli:contains invalid specifier: pytest-timeout=2.4", "No module named pip_audit"])
@pytest.mark.parametrize("text", ["", "[]", "{}", "no JSON"])
def test_an_audit_that_is_broken_fails_and_says_how(text, error):
    status, (line,) = audit.judge(audit.Answer(text, error), [], TODAY)
    assert status == 1
    assert line == f"pip-audit failed: {error or 'it says nothing of why'}"


def test_a_service_that_hangs_is_given_up_and_a_program_that_is_missing_is_not_away():
    def hangs(*words, timeout, **options):
        assert 30 <= timeout <= 300
        raise subprocess.TimeoutExpired(words, timeout)

    def missing(*words, **options):
        raise FileNotFoundError("no such file")

    assert audit.judge(audit.ask(hangs), [], TODAY).status == 0
    assert audit.judge(audit.ask(missing), [], TODAY).status == 1
    assert audit.ask(lambda *words, **options: SimpleNamespace(stdout="{}", stderr="")) == ("{}", "")


def test_a_malformed_pin_fails_the_audit_and_is_shown(tmp_path, monkeypatch, capsys):
    """By pip-audit itself, which reads the pins before it asks anybody."""
    pins = tmp_path / "constraints.txt"
    pins.write_text("numpy==2.2.6\npytest-timeout=2.4\n")
    monkeypatch.setattr(audit, "PINS", pins)
    assert audit.main() == 1
    err = capsys.readouterr().err
    assert err.startswith("audit: pip-audit failed: ERROR")
    assert "invalid specifier at line 2" in err
    assert "pytest-timeout=2.4" in err


def test_every_accepted_vulnerability_has_a_reason_and_a_day():
    audit.read_accepted(audit.ACCEPTED.read_text())
    entry = '[[accepted]]\npackage = "torch"\nid = "CVE-2026-1"\nreason = "{}"\nuntil = {}\n'
    (found,) = audit.read_accepted(entry.format("never called", "2027-06-30"))
    assert found == ("torch", "CVE-2026-1", "never called", date(2027, 6, 30))
    for reason, until in ((" ", "2027-06-30"), ("never called", '"soon"')):
        with pytest.raises(ValueError, match="needs package, id, reason and until"):
            audit.read_accepted(entry.format(reason, until))
