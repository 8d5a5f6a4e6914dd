"""The dependency audit of `make lint`: `python -m tests.audit` asks pip-audit which pinned versions have known vulnerabilities.

pip-audit alone exits with 0 when its service answers for no package at all; here that is said, loudly. Exit status: 1 for a vulnerability
that is not accepted, or whose acceptance has run out, and where pip-audit itself fails, such as on a malformed pin; else 0, also where
nothing could be audited because its service is away: that is no fault of the code.
"""

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
PINS, ACCEPTED = ROOT / "constraints.txt", ROOT / "tests" / "accepted_vulnerabilities.toml"
TIMEOUT_SECONDS, ANSWER_SECONDS = 120, 5
AWAY = re.compile(
    r"ConnectionError|ConnectTimeout|ReadTimeout|ProxyError|SSLError|Max retries exceeded|Could not connect|timed out|429 Client Error|"
    r"5\d\d Server Error"
)


class Finding(NamedTuple):
    """A known vulnerability of a pinned version; `names` are its id and aliases, `fixed` the versions without it."""

    package: str
    version: str
    names: tuple[str, ...]
    fixed: tuple[str, ...]


class Acceptance(NamedTuple):
    """A vulnerability that the project lives with, why, and the day from which it has to be looked at again."""

    package: str
    id: str
    reason: str
    until: date


class Answer(NamedTuple):
    """What pip-audit gave: JSON text, or none, and what it said of an error."""

    text: str
    error: str = ""


class Verdict(NamedTuple):
    """What an audit comes to: the exit status and the lines to print."""

    status: int
    lines: list[str]


def main() -> int:
    """Audit the pins; returns the exit status."""
    verdict = judge(ask(), read_accepted(ACCEPTED.read_text()), date.today())
    print("\n".join(f"audit: {line}" for line in verdict.lines), file=sys.stderr if verdict.status else sys.stdout)
    return verdict.status


def ask(command: Callable[..., Any] = subprocess.run) -> Answer:
    """pip-audit's answer. Versions are pinned, so nothing is resolved or installed."""
    words = [sys.executable, "-m", "pip_audit", "-r", str(PINS), "--disable-pip", "--no-deps", "--format", "json"]
    try:
        answer = command(
            [*words, "--progress-spinner", "off", "--timeout", str(ANSWER_SECONDS)],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Answer("", f"timed out after {TIMEOUT_SECONDS} s")
    except OSError as error:
        return Answer("", f"pip-audit does not start: {error}")
    return Answer(answer.stdout, _last_words(answer.stderr))


def _last_words(text: str) -> str:
    """The last error that a log tells, with the lines that it goes on for; else its last line."""
    lines = text.strip().splitlines()
    last = max((number for number, line in enumerate(lines) if line.startswith("ERROR")), default=len(lines) - 1)
    return " ".join(line.strip() for line in lines[max(last, 0) :])[:500]


def judge(answer: Answer, accepted: list[Acceptance], today: date) -> Verdict:
    """What to say of pip-audit's answer, and whether it fails the build."""
    try:
        asked = json.loads(answer.text)["dependencies"]
    except (ValueError, KeyError, TypeError):
        if AWAY.search(answer.error):
            return _nothing(f"pip-audit gave no answer (its service is away, or took too long): {answer.error}")
        return Verdict(1, [f"pip-audit failed: {answer.error or 'it says nothing of why'}"])
    audited = [package for package in asked if "skip_reason" not in package]
    if not audited:
        return _nothing(f"none of {len(asked)} packages is known to the service that was asked")
    by_name = {(one.package, one.id): one for one in accepted}
    wrong, known = [], []
    for finding in _findings(audited):
        acceptance = next((by_name[finding.package, name] for name in finding.names if (finding.package, name) in by_name), None)
        what = f"{finding.package} {finding.version} has {' = '.join(finding.names)}"
        remedy = f"mended in {', '.join(finding.fixed)}" if finding.fixed else "no mended version is known"
        if acceptance is None:
            wrong.append(f"{what}; {remedy}: raise the pin, or accept it in tests/{ACCEPTED.name} with a reason and a day")
        elif acceptance.until <= today:
            wrong.append(f"{what}, accepted until {acceptance.until} ({acceptance.reason}); {remedy}: look again")
        else:
            known.append(f"{what}, accepted until {acceptance.until}: {acceptance.reason}")
    skipped = [f"{len(asked) - len(audited)} were skipped"] if len(audited) < len(asked) else []
    counts = ", ".join([f"{len(audited)} of {len(asked)} packages audited", *skipped, f"{len(wrong)} to mend, {len(known)} accepted"])
    return Verdict(1 if wrong else 0, [*wrong, *known, counts])


def _nothing(reason: str) -> Verdict:
    return Verdict(0, [f"NOTHING WAS AUDITED: {reason}. This is no clean bill; run `make lint` where pypi.org is reached."])


def _findings(packages: list[dict[str, Any]]) -> list[Finding]:
    return [
        Finding(package["name"], package["version"], (one["id"], *one.get("aliases", ())), tuple(one.get("fix_versions", ())))
        for package in packages
        for one in package.get("vulns", ())
    ]


def read_accepted(text: str) -> list[Acceptance]:
    """The list of accepted vulnerabilities, every one with a reason and a day.

    Raises:
        ValueError: an entry lacks one of them.
    """
    entries = tomllib.loads(text).get("accepted", [])
    found = []
    for entry in entries:
        if set(entry) != set(Acceptance._fields) or not str(entry["reason"]).strip() or type(entry["until"]) is not date:
            raise ValueError(f"tests/{ACCEPTED.name}: {entry} needs package, id, reason and until, a day such as 2027-06-30")
        found.append(Acceptance(**entry))
    return found


if __name__ == "__main__":
    sys.exit(main())
