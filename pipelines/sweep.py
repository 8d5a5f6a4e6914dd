"""Search over losses, ratios and other settings with Ray Tune; compare the trials in MLflow.

`raygan sweep CONFIG SPACE [key=value ...]`; as a Ray job's entrypoint `python -m pipelines.sweep CONFIG SPACE [key=value ...]`.
SPACE is a file of tune_spaces, or several: loss_x_ratio+optimizer. Lists restrict what it searches: loss.name=[hinge,r3gan].
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gan_core import registry
from gan_core.wording import brief
from pipelines.packaged import packaged
from pipelines.statuses import USAGE

if TYPE_CHECKING:
    from pipelines.sweeps.plan import SweepPlan


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 done, 1 failed, 2 bad input (nothing was started), 130 Ctrl-C, 143 SIGTERM."""
    options = parser().parse_intermixed_args(arguments)
    words = list(sys.argv[1:] if arguments is None else arguments)
    from pipelines.plan import check  # PyTorch comes with it, for seconds: after the words were found to be in order

    try:
        plan, resumed = _resumed(options) if options.resume else (_planned(options), None)
        if plan.config.trials.packed > 1:
            from pipelines.sweeps import packing

            screened = [plan.identity(number) for number in range(plan.planned) if number not in plan.refused]
            packing.require_company(screened, plan.told(), plan.config.sweep)
        if options.dry_run:
            from pipelines.sweeps import preview

            print(preview.text(plan))
            return 0
        ready = check(plan.config.job(), local=False, command="sweep")
    except ValueError as error:
        print(f"raygan sweep: {error}", file=sys.stderr)
        return USAGE
    from pipelines.sweeps import conduct

    for caution in ready.cautions:
        print(f"raygan sweep: caution: {caution}", file=sys.stderr)
    return conduct.run(plan, f"raygan sweep {shlex.join(words)}", resumed)


def _planned(options: argparse.Namespace) -> "SweepPlan":
    from gan_core.overrides import parse
    from pipelines.sweeps import ledger
    from pipelines.sweeps import plan as plans

    if len(options.words) < 2 or "=" in options.words[0] or "=" in options.words[1]:
        raise ValueError(
            f"give a config and a space, such as digits loss_x_ratio; configs: {', '.join(packaged())}; spaces: "
            f"{', '.join(registry.choices('tune_spaces'))}"
        )
    config, space, *rest = options.words
    plan = plans.make(config, space, dict(parse(word) for word in rest))
    if options.dry_run:
        return plan
    from pipelines import tracking

    taken = ledger.names(tracking.reach(plan.config.mlflow.tracking_uri))
    name = plan.config.sweep.name
    if name in taken:
        raise ValueError(f"sweep.name: there is a sweep {name}; go on with it by --resume {name}, or give another name")
    if name is None:
        name = next(name for number in range(1, len(taken) + 2) if (name := f"{plan.base}-{space.replace('+', '-')}-{number}") not in taken)
    return plan.named(name)


def _resumed(options: argparse.Namespace) -> "tuple[SweepPlan, str]":
    from gan_core.overrides import parse
    from pipelines import tracking
    from pipelines.sweeps import ledger
    from pipelines.sweeps import plan as plans

    if any("=" not in word for word in options.words):
        raise ValueError("--resume takes config and space from the sweep itself; give nothing but key=value beside it")
    overrides = dict(parse(word) for word in options.words)
    tracker = tracking.reach(overrides.get("mlflow.tracking_uri"))
    found = ledger.find(tracker, options.resume)
    if found is None:
        known = ledger.names(tracker)
        raise ValueError(
            f"no sweep {brief(options.resume)} in {tracker.uri}{registry.suggestion(options.resume, known)}; "
            f"known: {', '.join(known) or 'none'}"
        )
    return plans.restore(ledger.read_plan(tracker, found.info.run_id), overrides), found.info.run_id


def parser() -> argparse.ArgumentParser:
    """Of this command's words; `raygan submit` reads them too."""
    parser = argparse.ArgumentParser(prog="raygan sweep", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "words", nargs="*", metavar="CONFIG SPACE key=value", help="a config, a search space, then restrictions and overrides"
    )
    parser.add_argument("--resume", metavar="NAME", help="go on with a sweep whose driver ended, by its name or the id of its run")
    parser.add_argument("--dry-run", action="store_true", help="print the trials and what they would cost, and stop")
    return parser


if __name__ == "__main__":
    sys.exit(main())
