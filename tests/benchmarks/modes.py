"""Mode collapse on the ring and the grid by PacGAN's protocol (1712.04086, section 4.1): 10 seeds, 2,500 points, good within 3 sigma.

    python -m tests.benchmarks.modes ring gan pacgan2 r1 --iterations 10000

The seeds train side by side in one process (tests/benchmarks/side_by_side.py), through the project's own steps. The paper and its released
code: Adam(1e-4, 0.8), batches of 100 decisions, 400,000 iterations, weights from N(0, 0.02^2).
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from gan_core import Trainer, building, registry
from gan_core.config import GanConfig
from gan_core.datatypes import ImageDataset
from gan_core.ema import Average
from gan_core.metrics import mode_coverage
from gan_core.overrides import merge, parse, validate
from tests.benchmarks.side_by_side import Discriminator, Generator

DATA = {"ring": "ring2d", "grid": "grid2d"}
PAPER = {
    "network.generator": {"output": "linear", "hidden_width": 400, "hidden_layers": 2, "norm": "batch"},
    "network.discriminator": {"hidden_width": 200, "hidden_layers": 3, "maxout_pieces": 5},
}
# Ours: non-saturating with a weak R1, no batch norm, no maxout, an averaged generator.
PLAYERS = ("generator", "discriminator")
OURS = {
    "network.generator": {"output": "linear", "hidden_width": 200, "hidden_layers": 3},
    "network.discriminator": {"hidden_width": 200, "hidden_layers": 3},
    "regularizers.r1_gamma": 0.01,
    "ema_halflife_kimg": 100.0,
    **{f"optimizer.{player}": {"lr": 1e-3, "beta1": 0.0, "beta2": 0.99} for player in PLAYERS},
}
GAMES = {"gan": PAPER, **{f"pacgan{m}": {**PAPER, "network.packing": m} for m in (2, 3, 4)}, "r1": OURS}
POINTS = 2500
READ_EVERY = 1000


def config(data, game, iterations, batch_size, overrides):
    tree = {
        "data": {"name": DATA[data]},
        "network": {"name": "mlp", "z_dim": 2},
        "optimizer": {player: {"lr": 1e-4, "beta1": 0.8} for player in PLAYERS},
        "ema_halflife_kimg": None,
        "diagnostics": {"enabled": False, "held_out": 0.0},
    }
    tree = merge(merge(tree, GAMES[game]), overrides)
    decisions = batch_size * tree["network"].get("packing", 1)
    d_steps = int(str(tree.get("step_ratio", "1:1")).split(":")[0])
    return validate({**tree, "batch_size": decisions, "total_kimg": iterations * decisions * d_steps / 1000}, GanConfig)


def side_by_side(settings, seeds):
    """A trainer of `seeds` independent games; penalties keep their weight for each."""
    scaled = {
        key: value / seeds for key, value in settings.regularizers.model_dump().items() if key.endswith(("_gamma", "_lambda")) and value
    }
    game = validate(merge(settings.model_dump(), {f"regularizers.{key}": value for key, value in scaled.items()}), GanConfig)
    trainer = Trainer(game, device="cpu")
    network, options = settings.network, {key: value for key, value in settings.network.generator.items() if key != "output"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        g = Generator(seeds, z_dim=network.z_dim, **options)
        d = Discriminator(seeds, packing=network.packing, **{k: v for k, v in network.discriminator.items() if k != "dropout"})
    load = registry.find("gan_core.data", settings.data.name).load
    first = settings.seed * seeds  # so that runs with other seeds share no data set
    sets = [load(**{**settings.data.options, "seed": first + index}) for index in range(seeds)]
    points = torch.cat([data.images for data in sets], dim=1)
    wide = settings.network.model_copy(update={"z_dim": settings.network.z_dim * seeds})
    trainer.config = game.model_copy(update={"network": wide})
    parts = trainer.parts
    trainer.parts = parts._replace(
        dataset=ImageDataset("side by side", points, None, "", mixture=sets[0].mixture),
        g=building._player(g, game.optimizer.generator),
        d=building._player(d, game.optimizer.discriminator, parts.game.penalties, game.regularizers.clip_weight),
        g_ema=Average(g, halflife_kimg=settings.ema_halflife_kimg),
    )
    return trainer


def run(data, game, seeds, iterations, batch_size, overrides):
    """Modes and good points of every seed at each quarter, and the seconds of all seeds together."""
    started = time.perf_counter()
    trainer = side_by_side(config(data, game, iterations, batch_size, overrides), seeds)
    z = torch.randn(POINTS, trainer.config.network.z_dim, generator=torch.Generator().manual_seed(2**32))
    quarters = []
    for quarter in range(1, 5):
        while trainer.state.g_steps < iterations * quarter // 4:
            trainer._round()
            if trainer.state.g_steps % READ_EVERY == 0:
                trainer.state.history.read(None)  # stops a game that diverges, and keeps the memory small
        with torch.no_grad():
            points = trainer.parts.g_ema.network(z)
        each = [mode_coverage.evaluate(points[:, 2 * seed : 2 * seed + 2], trainer.parts.dataset.mixture) for seed in range(seeds)]
        quarters.append({key: [round(found[key], 4) for found in each] for key in each[0]})
    seconds = round(time.perf_counter() - started, 1)
    return {"data": data, "game": game, "iterations": iterations, "overrides": overrides, "quarters": quarters, "seconds": seconds}


def summary(values):
    """Mean and standard error."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):.3f} +/- {error:.3f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=DATA)
    parser.add_argument("game", nargs="+", choices=GAMES)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=400_000, help="generator steps")
    parser.add_argument("--batch-size", type=int, default=100, help="decisions")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="a file of JSON lines to add to")
    parser.add_argument("--set", nargs="*", default=[], help="further overrides, key=value")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for game in given.game:
        row = run(given.data, game, given.seeds, given.iterations, given.batch_size, dict(parse(item) for item in given.set))
        if given.out:
            with given.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
        print(f"{given.data} {game} {given.iterations:,} iterations, {row['seconds'] / given.seeds:.1f} s a seed", *given.set)
        for quarter in row["quarters"]:
            print(f"    modes {summary(quarter['modes'])}   good points {summary(quarter['good_points'])}", flush=True)


if __name__ == "__main__":
    main()
