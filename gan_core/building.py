"""From a config to the things that training uses: data, networks, players. The only place in the core that reads the config for them."""

from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from gan_core import distributed, registry
from gan_core.config import AdamConfig, GanConfig
from gan_core.datatypes import ImageDataset
from gan_core.ema import Average
from gan_core.losses import LOSSES
from gan_core.sampling import derive_seed
from gan_core.steps import Game, Player


class Parts(NamedTuple):
    """What a trainer moves. `g` and `d` are the players, `dtype` is that of parameters and images."""

    dataset: ImageDataset
    g: Player
    d: Player
    g_ema: Average
    game: Game
    device: torch.device
    dtype: torch.dtype
    draws_noise: bool


def load_dataset(config: GanConfig) -> ImageDataset:
    """The data set of `config.data`.

    Raises:
        ValueError: it cannot be loaded, or it has no labels and `network.conditional` asks for them.
    """
    dataset: ImageDataset = registry.find("gan_core.data", config.data.name).load(**config.data.options)
    if config.network.conditional and dataset.labels is None:
        raise ValueError(f"network.conditional: the data set {dataset.name} has no labels; set it to false")
    return dataset


def build_networks(config: GanConfig, dataset: ImageDataset) -> tuple[nn.Module, nn.Module]:
    """Generator and discriminator, float32 on the CPU, the same on every rank: initialised from `config.seed` alone.

    Raises:
        ValueError: the network cannot make the data's resolution or channels.
    """
    network = config.network
    module = registry.find("gan_core.networks", network.name)
    shape = {
        "resolution": dataset.resolution,
        "channels": dataset.channels,
        "num_classes": dataset.num_classes if network.conditional else 0,
    }
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(config.seed, "initialise"))
        generator = module.generator(**shape, z_dim=network.z_dim, **network.generator)
        discriminator = module.discriminator(**shape, **network.discriminator)
    return generator, discriminator


def build(config: GanConfig, device: torch.device | str | None) -> Parts:
    """Everything a trainer needs.

    Raises:
        ValueError: config, data and the number of ranks do not fit each other.
    """
    config.require_divisible(distributed.world_size())
    place = torch.device(device if device is not None else "cuda" if torch.cuda.is_available() else "cpu")
    dataset = load_dataset(config)
    dtype = torch.float64 if config.precision == "float64" else torch.float32
    generator, discriminator = (network.to(place, dtype).train() for network in build_networks(config, dataset))
    game = Game(LOSSES[config.loss.name], _autocast(config, place), config.accumulation_steps)
    return Parts(
        dataset,
        _player(generator, config.optimizer.generator),
        _player(discriminator, config.optimizer.discriminator),
        Average(generator, halflife_kimg=config.ema_halflife_kimg),
        game,
        place,
        dtype,
        draws_noise=any(isinstance(m, nn.Dropout) for network in (generator, discriminator) for m in network.modules()),
    )


def resolved_precision(config: GanConfig, device: torch.device) -> str:
    """What `precision: auto` means on `device`: bfloat16 autocast where a GPU has it, float32 elsewhere."""
    if config.precision != "auto":
        return config.precision
    return "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "float32"


def _autocast(config: GanConfig, device: torch.device) -> partial[torch.autocast]:
    enabled = resolved_precision(config, device) == "bfloat16"
    return partial(torch.autocast, device.type, dtype=torch.bfloat16, enabled=enabled)


def _player(network: nn.Module, adam: AdamConfig) -> Player:
    parameters = list(network.parameters())
    fused = parameters[0].is_cuda
    optimizer = torch.optim.Adam(parameters, lr=adam.lr, betas=(adam.beta1, adam.beta2), eps=adam.eps, fused=fused, foreach=not fused)
    buffers = [buffer for buffer in network.buffers() if buffer.is_floating_point()]
    return Player(network, parameters, buffers, optimizer, adam.clip_norm)
