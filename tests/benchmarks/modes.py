"""Mode collapse on the ring and the grid by PacGAN's protocol (1712.04086, section 4.1): 10 seeds, 2,500 points, good within 3 sigma.

    python -m tests.benchmarks.modes ring --game gan pacgan2 --seeds 10 --iterations 40000

Players as in the paper and its released code: a generator of ReLU layers of 400 units with batch norm, a discriminator of
maxout layers of 200 units with 5 pieces, Adam(1e-4, 0.8, 0.999), batches of 100 decisions. The paper has 400,000 iterations.
"""

import argparse
import json
import time
from pathlib import Path

import torch

from gan_core import Trainer
from gan_core.config import GanConfig
from gan_core.overrides import merge, validate

DATA = {"ring": "ring2d", "grid": "grid2d"}
GAMES = {
    "gan": {},
    "pacgan2": {"network.packing": 2},
    "pacgan3": {"network.packing": 3},
    "pacgan4": {"network.packing": 4},
}
# Ours: what the search for full coverage ended with; LOG.md has what it tried.
FOUND: dict[str, dict] = {}


def config(data, game, seed, iterations, batch_size, extra):
    tree = {
        "data": {"name": DATA[data]},
        "network": {
            "name": "mlp",
            "z_dim": 2,
            "generator": {"output": "linear", "hidden_width": 400, "hidden_layers": 2, "norm": "batch"},
            "discriminator": {"hidden_width": 200, "hidden_layers": 1, "maxout_pieces": 5},
        },
        "optimizer": {player: {"lr": 1e-4, "beta1": 0.8} for player in ("generator", "discriminator")},
        "ema_halflife_kimg": None,
        "seed": seed,
        "diagnostics": {"enabled": False, "held_out": 0.0},
    }
    overrides = {**GAMES.get(game, {}), **FOUND.get(game, {}), **extra}
    packing = overrides.get("network.packing", 1)
    d_steps = int(str(overrides.get("step_ratio", "1:1")).split(":")[0])
    kimg = iterations * batch_size * packing * d_steps / 1000
    tree = merge(tree, {"batch_size": batch_size * packing, "total_kimg": kimg, **overrides})
    tree["schedule"] = {f"{what}_kimg": kimg / 4 for what in ("report", "evaluate", "sample", "checkpoint")} | {"evaluate_count": 2500}
    return validate(tree, GanConfig)


def run(data, game, seed, iterations, batch_size, extra):
    """The scores at each quarter of one training, and its seconds."""
    started, reports = time.perf_counter(), []
    Trainer(config(data, game, seed, iterations, batch_size, extra), device="cpu").run(reports.append)
    scored = [report.metrics for report in reports if "quality/modes" in report.metrics][1:]
    quarters = [[metrics["quality/modes"], round(metrics["quality/good_points"], 4)] for metrics in scored]
    row = {"data": data, "game": game, "seed": seed, "iterations": iterations, "extra": extra, "quarters": quarters}
    return {**row, "seconds": round(time.perf_counter() - started, 1)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=DATA)
    parser.add_argument("--game", nargs="+", default=["gan"], choices=[*GAMES, *FOUND])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--iterations", type=int, default=400_000, help="generator steps")
    parser.add_argument("--batch-size", type=int, default=100, help="decisions")
    parser.add_argument("--out", type=Path, help="a file of JSON lines to add to")
    parser.add_argument("--set", nargs="*", default=[], help="further overrides, key=value")
    given = parser.parse_args()
    torch.set_num_threads(1)
    from gan_core.overrides import parse

    extra = dict(parse(item) for item in given.set)
    for game in given.game:
        for seed in range(given.first_seed, given.first_seed + given.seeds):
            row = run(given.data, game, seed, given.iterations, given.batch_size, extra)
            print(json.dumps(row), flush=True)
            if given.out:
                with given.out.open("a") as file:
                    file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
