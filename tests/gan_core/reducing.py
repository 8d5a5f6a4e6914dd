"""Runs trainings on several gloo ranks in small buckets, with a reducer and without one, and saves what came out; started by
test_reducer.py."""

import sys

import torch
import torch.distributed as dist
from torch import nn

from gan_core import distributed
from gan_core.distributed import Reducer, average_over_ranks
from tests.support import tiny_trainer

BUCKET_BYTES = 300
CASES = {
    "several steps": {"step_ratio": "2:1"},
    "penalised": {"regularizers__gp_lambda": 1.0, "regularizers__r1_gamma": 1.0, "regularizers__r1_interval": 2},
    "accumulated": {"accumulation_steps": 2, "regularizers__r2_gamma": 1.0, "optimizer__discriminator__clip_norm": 0.5},
    "batch norm": {"network__name": "dcgan", "network__generator": {"width": 4}, "network__discriminator": {"width": 4}},
    "reused fakes, batch norm": {
        "reuse_fakes": True,
        "network__name": "dcgan",
        "network__generator": {"width": 4},
        "network__discriminator": {"width": 4},
    },
    "gathering": {"loss__name": "relativistic_average"},
    "path length": {
        "network": {
            "name": "stylegan2",
            "z_dim": 6,
            "generator": {"capacity": 32, "max_width": 4, "w_dim": 5, "mapping_layers": 2},
            "discriminator": {"capacity": 32, "max_width": 4, "minibatch_stddev_group": 2},
        },
        "regularizers__path_length_weight": 2.0,
        "regularizers__path_length_interval": 1,
        "accumulation_steps": 2,
    },
}


class Uneven(nn.Module):
    """Four weights [10, 10], reached in an order that is the rank's, one by autograd.grad alone, and one by rank 0 alone."""

    def __init__(self):
        super().__init__()
        weights = torch.linspace(-1, 1, 400, dtype=torch.float64).sin().view(4, 10, 10)
        self.first, self.second, self.slope, self.sometimes = (nn.Parameter(weight.clone()) for weight in weights)

    def loss(self, rank):
        x = torch.linspace(0, 1, 10, dtype=torch.float64).add(rank).requires_grad_()
        order = (self.first, self.second) if rank else (self.second, self.first)
        for weight in order:
            x = torch.tanh(weight @ x)
        y = torch.linspace(1, 2, 10, dtype=torch.float64).add(rank).requires_grad_()
        (slope,) = torch.autograd.grad((self.slope @ y).sin().sum(), y, create_graph=True)
        loss = x.square().sum() + slope.square().sum()
        return loss + (self.sometimes @ y).sum() if rank == 0 else loss


def uneven(rank, world_size):
    """Gradients after two steps each: this rank's own, averaged without a reducer, and averaged with one."""
    found = []
    for sends in (None, False, True):
        network = Uneven()
        parameters = list(network.parameters())
        reducer = Reducer(parameters) if sends else None
        for _ in range(2):
            network.zero_grad(set_to_none=True)
            if reducer is not None:
                reducer.expect(1)
            network.loss(rank).backward()
            if sends is not None:
                average_over_ranks(parameters, [], reducer)
        found.append([torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters])
    return found


def train(options, *, reduces):
    """What three rounds leave, and how many buckets were sent before backward had ended."""
    trainer = tiny_trainer(batch_size=8, total_kimg=1.0, **options)
    early = []
    for name in ("d", "g"):
        player = getattr(trainer.parts, name)
        if not reduces:
            trainer.parts = trainer.parts._replace(**{name: player._replace(reducer=None)})
        elif player.reducer is not None:
            take = player.reducer.take

            def counted(take=take):
                sent = take()
                early.append(len(sent))
                return sent

            player.reducer.take = counted
    for _ in range(3):
        trainer._round()
    state = trainer.state_dict()
    return {"early": early, "state": {key: state[key] for key in ("generator", "discriminator", "generator_optimizer", "g_ema")}}


def as_rank(rank, world_size, port, folder):
    """One process of a group."""
    torch.set_num_threads(1)
    distributed.BUCKET_BYTES = BUCKET_BYTES
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world_size)
    found = {name: [train(options, reduces=reduces) for reduces in (False, True)] for name, options in CASES.items()}
    torch.save({"cases": found, "uneven": uneven(rank, world_size)}, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    as_rank(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
