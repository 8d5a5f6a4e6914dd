"""Runs the same trainings on several gloo ranks and on one, and saves what came out; started by test_distributed.py."""

import os
import socket
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from gan_core import distributed, wishes
from gan_core.data import digits
from gan_core.judge import Judge, build_extractor, unmeasurable
from gan_core.losses import LOSSES
from gan_core.measures import MEASURES
from gan_core.metrics import _neighbours, frechet_distance, kernel_distance
from gan_core.regularizers import REGULARIZERS
from gan_core.sections import ExtractorConfig
from gan_core.wishes import Wish
from tests.support import prepared_digits, tiny_trainer

RATIOS = ["1:1", "3:1", "1:2"]
DCGAN = {"network__name": "dcgan", "network__generator__width": 4, "network__discriminator__width": 4}
STYLEGAN2 = {
    "network__name": "stylegan2",
    "network__generator": {"capacity": 32, "w_dim": 6, "mapping_layers": 2},
    "network__discriminator": {"capacity": 32},
    "regularizers__r1_gamma": 1.0,
    "regularizers__r1_interval": 2,
}
R3GAN = {
    "network__name": "r3gan",
    "network__generator": {"width": 4, "max_width": 8},
    "network__discriminator": {"width": 4, "max_width": 8},
    "variant": "r3gan",
}
FREE_OF_BATCH = {"network__generator__norm": "layer", "network__discriminator__norm": "layer"}
CASES = {
    f"{name} {ratio}": {**options, "step_ratio": ratio}
    for name, options in {"mlp": {}, "dcgan": {**DCGAN, **FREE_OF_BATCH}, "accumulated": {"accumulation_steps": 2}}.items()
    for ratio in RATIOS
} | {
    "spectral norm": {"regularizers__spectral_norm": True},
    "stylegan2": STYLEGAN2,
    "r3gan": R3GAN,
    "r3gan conditional": {**R3GAN, "network__conditional": True},
    "clipped weights": {"variant": "wgan"},
    "packed": {"network__packing": 2},
    "packed, penalised": {
        "network__packing": 2,
        "regularizers__gp_lambda": 1.0,
        "regularizers__r1_gamma": 1.0,
        "regularizers__r1_interval": 2,
    },
    "accumulated, penalised": {"accumulation_steps": 2, "regularizers__gp_lambda": 1.0, "regularizers__lecam_lambda": 1.0},
    "conditional, penalised": {"network__conditional": True, "regularizers__r1_gamma": 1.0, "regularizers__r2_gamma": 1.0},
    "augmented": {"augment__name": "diffaugment", "augment__mirror": True, "loss__name": "relativistic", "accumulation_steps": 2},
    "adaptively augmented": {
        "augment__name": "ada",
        "augment__full_kimg": 0.1,
        "augment__target": 0.1,
        "regularizers__r1_gamma": 1.0,
        "diagnostics__images": 5,
    },
    "stylegan2, path length": {
        "network": {
            "name": "stylegan2",
            "z_dim": 6,
            "generator": {"capacity": 32, "max_width": 4, "w_dim": 5, "mapping_layers": 2},
            "discriminator": {"capacity": 32, "max_width": 4, "minibatch_stddev_group": 2},
        },
        "regularizers__path_length_weight": 2.0,
        "regularizers__path_length_interval": 2,
        "regularizers__r1_gamma": 1.0,
        "accumulation_steps": 2,
    },
    "steered ratio": {
        "step_ratio_schedule__advantage_low": 0.2,
        "step_ratio_schedule__advantage_high": 0.4,
        "step_ratio_schedule__adjust_kimg": 0.024,
        "diagnostics__images": 5,
    },
    "prepared shards": {"data__name": "parquet"},  # of the digits, in $RAYGAN_CACHE
}

# Every loss with every penalty, at once and lazily, at every step ratio.
PENALTIES = {"none": {}} | {
    f"{name}{when}": {f"regularizers__{regularizer.weight_key}": 1.0, f"regularizers__{name}_interval": interval}
    for name, regularizer in REGULARIZERS.items()
    for when, interval in (("", 1), (" lazy", 2))
}
OBJECTIVES = {
    **{name: {"loss__name": name} for name in LOSSES},
    **{
        f"{name} alternative": {"loss__name": name, "loss__generator_objective": "alternative"}
        for name, loss in LOSSES.items()
        if loss.alternative_generator is not None
    },
}
GAMES = {
    f"{loss} + {penalty} {ratio}": {**objective, **options, "step_ratio": ratio}
    for loss, objective in OBJECTIVES.items()
    for penalty, options in PENALTIES.items()
    for ratio in RATIOS
}

STOPPED = ("steered ratio", "ada, lazy penalties")  # of test_wishes.py


def train(options):
    """10 steps of batch 8 in float64; what they left."""
    if "data__name" in options:
        options = {**options, "data__path": prepared_digits(Path(os.environ["RAYGAN_CACHE"]))}
    trainer = tiny_trainer(
        precision="float64", batch_size=8, total_kimg=0.08, schedule__report_kimg=0.04, schedule__checkpoint_kimg=0.04, **options
    )
    reports = []

    def receive(report):
        """As under Ray: rank 0 alone reads the state."""
        reports.append(report)
        if report.state is not None and distributed.rank() == 0:
            report.state()

    trainer.run(receive)
    state = trainer.state_dict()
    keys = ("generator", "discriminator", "g_ema", "generator_optimizer", "discriminator_optimizer")
    return {"state": {key: state[key] for key in keys}, "metrics": [report.metrics for report in reports]}


def stopped(name, rank, folder):
    """Points and state of the game `name` of test_wishes.py: undisturbed, and where rank 1 alone wishes to stop again and again.

    As under Ray, rank 0 alone reads the state, and all go on from its file.
    """
    from tests.gan_core.test_wishes import every, options, points

    wishes.LOOK_SECONDS = 0.0
    file, found = f"{folder}/{name}.pt", []
    for patience in (10_000, 4):
        trainer, reports, count = tiny_trainer(**options(name)), [], 0

        def receive(report):
            reports.append(report)  # noqa: B023 - called in this turn of the loop
            if report.state is not None and distributed.rank() == 0:
                torch.save(report.state(), file)

        while not trainer.done:
            wish = every(trainer, patience)
            trainer.run(receive, wish=wish if rank == 1 else lambda: Wish.NONE)
            dist.barrier()
            if trainer.stopped:
                count += 1
                trainer = tiny_trainer(**options(name))
                trainer.load_state_dict(torch.load(file, weights_only=True))
        state = trainer.state_dict() | {"window_seconds": 0, "device_seconds": 0}
        found.append({"points": points(reports), "state": state, "stops": count})
    return found


def gradients(options):
    """The last gradients of both players after two rounds of batch 8 in float64, averaged over the ranks; plain SGD between them.

    Adam would divide rounding by rounding where a gradient is nearly zero.
    """
    trainer = tiny_trainer(precision="float64", batch_size=8, **options)
    for name in ("d", "g"):
        player = getattr(trainer.parts, name)
        optimizer = torch.optim.SGD(player.parameters, lr=0.01)
        trainer.parts = trainer.parts._replace(**{name: player._replace(optimizer=optimizer)})
    trainer._round()
    trainer._round()
    return {
        f"{name} {index}": torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for name in ("d", "g")
        for index, parameter in enumerate(getattr(trainer.parts, name).parameters)
    }


def wrapped_gradients(rank, world_size):
    """Of R1 alone under DistributedDataParallel, as a lazy penalty step would take it: this rank's, and the whole batch's."""
    trainer = tiny_trainer(precision="float64", batch_size=8)
    network, real = trainer.parts.d.network, torch.linspace(-1, 1, 8 * 64, dtype=torch.float64).sin().view(8, 1, 8, 8)

    def penalise(discriminator, images):
        network.zero_grad()
        REGULARIZERS["r1"](discriminator, images, images).mean().backward()
        return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in network.parameters()]

    whole = penalise(network, real)
    return {"whole": whole, "mine": penalise(DistributedDataParallel(network), real.chunk(world_size)[rank])}


def scores(rank, world_size):
    """All metrics of 299 digits against 400 others, each rank giving its share of the fakes; in small blocks, so that ranks share them."""
    for module in (_neighbours, frechet_distance, kernel_distance):
        module.BLOCK = 64
    dataset, numbers, cpu = digits.load(), torch.arange(1797), torch.device("cpu")
    found = {}
    for name in ("pixels", "lenet"):
        extractor = build_extractor(ExtractorConfig(name=name), dataset, cpu)
        held_out = numbers[400:500]
        left_out = unmeasurable(dataset, extractor, real=400, fake=299, held_out=held_out)
        metrics = [metric for metric in MEASURES if metric not in left_out]
        judge = Judge(dataset, extractor, metrics, real=numbers[:400], held_out=held_out, split="train", seed=0)
        share = -(-299 // world_size)
        mine = torch.arange(rank * share, (rank + 1) * share).clamp(max=298) + 600
        fakes = dataset.batch(mine, cpu, torch.float32, labelled=False).inputs
        found |= judge.score(fakes.split(100), 299).values
    return found


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def as_rank(rank, world_size, port, folder):
    """One process of a group: every case, then one with batch norm, whose ranks must end equal, then every game."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world_size)
    results = {name: train(options) for name, options in CASES.items()}
    results["batch norm"] = train(DCGAN)
    torch.save(results, f"{folder}/rank{rank}.pt")
    torch.save({name: gradients(options) for name, options in GAMES.items()}, f"{folder}/games{rank}.pt")
    torch.save({name: stopped(name, rank, folder) for name in STOPPED}, f"{folder}/stopped{rank}.pt")
    torch.save(scores(rank, world_size), f"{folder}/scores{rank}.pt")
    torch.save(wrapped_gradients(rank, world_size), f"{folder}/wrapped{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    as_rank(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
