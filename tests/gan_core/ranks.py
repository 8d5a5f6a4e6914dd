"""Runs the same trainings on several gloo ranks and on one, and saves what came out; started by test_distributed.py."""

import os
import socket
import sys

import torch
import torch.distributed as dist

from tests.support import tiny_trainer

RATIOS = ["1:1", "3:1", "1:2"]
DCGAN = {"network__name": "dcgan", "network__generator__width": 4, "network__discriminator__width": 4}
FREE_OF_BATCH = {"network__generator__norm": "layer", "network__discriminator__norm": "layer"}
CASES = {
    f"{name} {ratio}": {**options, "step_ratio": ratio}
    for name, options in {"mlp": {}, "dcgan": {**DCGAN, **FREE_OF_BATCH}, "accumulated": {"accumulation_steps": 2}}.items()
    for ratio in RATIOS
}


def train(options):
    """10 steps of batch 8 in float64; what they left."""
    trainer = tiny_trainer(
        precision="float64", batch_size=8, total_kimg=0.08, schedule__report_kimg=0.04, schedule__checkpoint_kimg=0.04, **options
    )
    reports = []
    trainer.run(reports.append)
    state = trainer.state_dict()
    keys = ("generator", "discriminator", "g_ema", "generator_optimizer", "discriminator_optimizer")
    return {"state": {key: state[key] for key in keys}, "metrics": [report.metrics for report in reports]}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def as_rank(rank, world_size, port, folder):
    """One process of a group: every case, then one with batch norm, whose ranks must end equal."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world_size)
    results = {name: train(options) for name, options in CASES.items()}
    results["batch norm"] = train(DCGAN)
    torch.save(results, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    as_rank(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
