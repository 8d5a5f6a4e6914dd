"""The table of a campaign: what struck, and what was found."""

from collections import Counter
from typing import Any

from tests.chaos.judge import KINDS


def table(lines: list[dict[str, Any]], *, seed: int, hardware: str) -> str:
    """Markdown: a sum for each kind of fault, then a row for each fault."""
    struck = [line for line in lines if line["struck"]]
    scenarios = {line["scenario"]: line["findings"] for line in lines}
    found = Counter(finding["kind"] for findings in scenarios.values() for finding in findings)
    sound = sum(not line["findings"] for line in struck)
    rows = [
        "# Faults, and what they leave",
        "",
        f"`make chaos`, which is `python -m tests.chaos --seed {seed} --faults {len(lines)}`, on {hardware}: {len(struck)} faults over "
        f"{len(scenarios)} trainings and sweeps, {sound} without a finding. Compared with undisturbed runs: every metric's history, "
        "pictures, the last weights, averages and optimizer states (bit for bit; after an out-of-memory, which changes the order of "
        "summation, to 1e-9 in float64), MLflow's status, and the processes.",
        "",
        f"Found: {', '.join(f'{found[kind]} {kind}' for kind in KINDS)}.",
        "",
        "| fault | on | struck | runs with findings |",
        "|---|---|---|---|",
    ]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for line in lines:
        groups.setdefault((line["kind"], line["stage"]), []).append(line)
    for (kind, stage), mine in sorted(groups.items()):
        rows.append(f"| {kind} | {stage} | {sum(line['struck'] for line in mine)} | {sum(bool(line['findings']) for line in mine)} |")
    rows += ["", "| run | s | at kimg | what was done | findings |", "|---|---|---|---|---|"]
    for line in lines:
        kinds = Counter(finding["kind"] for finding in line["findings"])
        said = ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "none"
        done = line["done"].splitlines()[0][:160].replace("|", "/")
        rows.append(
            f"| {line['scenario']} {line['stage']} | {line['seconds']:.0f} | {line['at_kimg']:g} + {line['delay_seconds']:g} s | "
            f"{'' if line['struck'] else 'did not strike: '}{done} | {said} |"
        )
    return "\n".join(rows) + "\n"
