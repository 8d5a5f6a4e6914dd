"""`python -m tests.chaos [--seed 7] [--faults 30] [--log FILE] [--table FILE] [--only WORD]`: the campaign, one JSON line for each fault.

Repeated with the same log it goes on after the last scenario that is in there. Exit status 1 where anything was found. Needs root, for the
disks that fill up and the hosts; without what hosts need, those faults are left out and that is said.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from pipelines import environment
from tests.chaos import report
from tests.chaos.campaign import Campaign, lines, plan, read
from tests.pipelines import hosts


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--faults", type=int, default=30)
    parser.add_argument("--log", type=Path, default=Path("chaos.jsonl"))
    parser.add_argument("--table", type=Path)
    parser.add_argument("--only", default="", help="scenarios with a fault, or on a stage, whose name holds this")
    parser.add_argument("--dry-run", action="store_true", help="print what would happen")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("the campaign mounts disks that fill up, and needs root", file=sys.stderr)
        return 2
    reason = hosts.missing()
    if reason:
        print(f"no faults of machines: {reason}", file=sys.stderr)
    scenarios = plan(options.seed, options.faults, with_machines=not reason)
    scenarios = [
        each for each in scenarios if any(options.only in name for name in (each.stage, *(strike.kind for strike in each.strikes)))
    ]
    if options.dry_run:
        for each in scenarios:
            print(each.number, each.stage, *(f"\n    {strike.kind} at {strike.at:.0%} + {strike.delay:.1f} s" for strike in each.strikes))
        return 0
    done = read(options.log, options.seed)
    if not done:
        options.log.write_text(json.dumps({"seed": options.seed}) + "\n")
    with (
        tempfile.TemporaryDirectory(prefix="rchaos", dir="/tmp", ignore_cleanup_errors=True) as folder,
        Campaign(Path(folder, "work")) as campaign,
    ):
        for scenario in scenarios:
            if scenario.number in {line["scenario"] for line in done}:
                continue
            found = list(lines(scenario, *campaign.conduct(scenario)))
            done += found
            with options.log.open("a") as log:
                log.writelines(json.dumps(line) + "\n" for line in found)
            for line in found:
                verdict = "; ".join(f"{finding['kind']}: {finding['said']}" for finding in line["findings"][:3]) or "nothing found"
                print(f"{len(done)}: {scenario.number} {line['stage']}, {line['seconds']:.0f} s: {line['done']}: {verdict}", flush=True)
    text = report.table(done, seed=options.seed, hardware=environment.describe()["hardware"]["summary"])
    print(text)
    if options.table:
        options.table.write_text(text)
    return 1 if any(line["findings"] for line in done) else 0


if __name__ == "__main__":
    sys.exit(main())
