"""From a config to the things that training uses: data, networks, players. The only place in the core that reads the config for them."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import combinations
from typing import NamedTuple
from weakref import WeakValueDictionary

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from gan_core import distributed, judging, registry
from gan_core.ahead import Ahead
from gan_core.augment import Augmenter
from gan_core.config import GanConfig
from gan_core.datatypes import ImageDataset
from gan_core.diagnostics import Thresholds
from gan_core.ema import Average
from gan_core.fitting import draws_noise, judges_together, repeats_itself, require_fitting
from gan_core.game import Game, Penalty, Player
from gan_core.losses import LOSSES
from gan_core.optimizers import Adam
from gan_core.path_length import PathLength
from gan_core.ratio import Band, RatioSchedule, StepRatio, Warmup
from gan_core.regularizers import REGULARIZERS
from gan_core.sampling import derive_seed, held_out_split
from gan_core.sections import AdamConfig
from gan_core.spectral import spectrally_normalised

RESIDENT_SHARE = 0.25  # of a GPU's free memory that images may take without being asked to
_resident: WeakValueDictionary[tuple[str, torch.device], Tensor] = WeakValueDictionary()


class Parts(NamedTuple):
    """What a trainer moves. `g` and `d` are the players, `dtype` is that of parameters and images.

    `train` and `held_out` are image numbers; `draws` is how many uniform numbers a decision's penalties need. `ahead` fetches the images of
    the next step, where that takes longer than a look.
    """

    dataset: ImageDataset
    train: Int64[Tensor, " train"]
    held_out: Int64[Tensor, " held_out"]
    g: Player
    d: Player
    g_ema: Average
    game: Game
    draws: int
    device: torch.device
    dtype: torch.dtype
    draws_noise: bool
    ahead: Ahead | None = None


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
    """Generator and discriminator on the CPU, the same on every rank: initialised from `config.seed` alone.

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
        discriminator = module.discriminator(**{**shape, "channels": dataset.channels * network.packing}, **network.discriminator)
        if config.regularizers.spectral_norm:
            # Its first power iterations are taken here, in the precision of the run.
            discriminator = spectrally_normalised(discriminator.double() if config.precision == "float64" else discriminator)
    return generator, discriminator


def build(config: GanConfig, device: torch.device | str | None) -> Parts:
    """Everything a trainer needs.

    Raises:
        ValueError: config, data and the number of ranks do not fit each other.
    """
    config.require_divisible(distributed.world_size())
    place = _place(device)
    dataset = resident(load_dataset(config), place, config.speed.data_on_device)
    dtype = torch.float64 if config.precision == "float64" else torch.float32
    generator, discriminator = (_placed(network, place, dtype) for network in build_networks(config, dataset))
    require_fitting(config, dataset, generator, discriminator, ranks=distributed.world_size())
    train, held_out = held_out_split(len(dataset), config.diagnostics.held_out)
    penalties, draws = _penalties(config, dataset)
    g = _player(generator, config, config.optimizer.generator, _path_intervals(config))
    d = _player(discriminator, config, config.optimizer.discriminator, [p.interval for p in penalties], config.regularizers.clip_weight)
    return Parts(
        dataset,
        train,
        held_out,
        g,
        d,
        Average(generator, halflife_kimg=config.ema_halflife_kimg),
        _game(config, penalties, discriminator, place, dtype),
        draws,
        place,
        dtype,
        draws_noise=draws_noise(generator) or draws_noise(discriminator),
        ahead=Ahead(dataset.gathered, place) if place.type == "cuda" and dataset.resident is None else None,
    )


def _place(device: torch.device | str | None) -> torch.device:
    """The device with its number: "cuda" is equal to no tensor's device."""
    place = torch.device(device if device is not None else "cuda" if torch.cuda.is_available() else "cpu")
    return torch.device("cuda", torch.cuda.current_device()) if place.type == "cuda" and place.index is None else place


def resident(dataset: ImageDataset, place: torch.device, asked: bool | None) -> ImageDataset:
    """The data set with its images on a GPU too, where that was asked for, or nothing was asked and they fit well.

    Trainers of one process share them.

    Raises:
        ValueError: it was asked for, and there is no GPU, or no room.
    """
    if place.type != "cuda":
        if asked:
            raise ValueError(f"speed.data_on_device: keeps pixels on a GPU, and this run has {place.type}; set it to null")
        return dataset
    if asked is False:
        return dataset
    known = (dataset.content_hash, place)
    images = _resident.get(known)
    if images is None:
        size, free = dataset.images.nbytes, torch.cuda.mem_get_info(place)[0]
        if asked and size > free:
            raise ValueError(
                f"speed.data_on_device: the images take {size / 1e9:.1f} GB, and {place} has {free / 1e9:.1f} GB free; set it to null"
            )
        if not asked and size > RESIDENT_SHARE * free:
            return dataset
        images = _resident[known] = dataset.images.to(place)
    return replace(dataset, resident=images)


def _placed(network: nn.Module, place: torch.device, dtype: torch.dtype) -> nn.Module:
    """On its device, for training; kernels of convolutions as [height, width, maps], which is a tenth to a quarter faster."""
    return network.to(place, dtype).to(memory_format=torch.channels_last).train()


def build_ratio(config: GanConfig) -> RatioSchedule:
    """The step ratio's schedule."""
    schedule = config.step_ratio_schedule
    warmup = band = None
    if schedule.warmup_ratio is not None and schedule.warmup_kimg is not None:
        warmup = Warmup(StepRatio.parse(schedule.warmup_ratio), schedule.warmup_kimg * 1000.0)
    if schedule.advantage_low is not None and schedule.advantage_high is not None:
        lowest, highest = (StepRatio.parse(text).rung or 0 for text in (schedule.lowest, schedule.highest))
        band = Band(schedule.advantage_low, schedule.advantage_high, schedule.adjust_kimg * 1000.0, lowest, highest)
    return RatioSchedule(config.ratio, warmup=warmup, band=band)


def build_thresholds(config: GanConfig) -> Thresholds:
    """Where alarms go off."""
    limits = config.diagnostics
    return Thresholds(limits.collapse, limits.saturation, limits.overfitting, limits.divergence, limits.patience)


def resolved_precision(config: GanConfig, device: torch.device) -> str:
    """What `precision: auto` means on `device`: bfloat16 autocast where a GPU has it, float32 elsewhere."""
    if config.precision != "auto":
        return config.precision
    return "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "float32"


def _autocast(config: GanConfig, device: torch.device) -> Callable[[], AbstractContextManager[object]]:
    if resolved_precision(config, device) != "bfloat16":
        return nullcontext
    return partial(torch.autocast, device.type, dtype=torch.bfloat16)


def _game(config: GanConfig, penalties: tuple[Penalty, ...], discriminator: nn.Module, place: torch.device, dtype: torch.dtype) -> Game:
    loss = LOSSES[config.loss.name]
    alternative = config.loss.generator_objective == "alternative"
    generator_loss = loss.alternative_generator if alternative else loss.generator
    assert generator_loss is not None, "the config refuses an alternative that does not exist"
    # The relativistic loss leaves the last bias without any gradient: two sums that cancel to 0, where one leaves what rounding makes.
    together = judges_together(discriminator) and not loss.generator_reads_real
    each = judging.EACH_IN_ONE_PASS if together else judging.EACH
    judge = judging.WITNESS if loss.on_witness else judging.ACROSS_RANKS if loss.across_batch else each
    shared = any(penalty.regularizer.of_the_batch and penalty.interval == 1 for penalty in penalties)
    full_precision = resolved_precision(config, place) != "bfloat16" and not config.speed.compile
    anchors = torch.zeros(2, device=place, dtype=dtype) if any(penalty.name == "lecam" for penalty in penalties) else None
    return Game(
        loss,
        generator_loss,
        judge,
        penalties,
        anchors,
        config.network.packing,
        _autocast(config, place),
        config.accumulation_steps,
        _augmenter(config, place, dtype),
        _path(config, place, dtype),
        one_graph=shared and full_precision and judge is each and repeats_itself(discriminator),
    )


def _augmenter(config: GanConfig, place: torch.device, dtype: torch.dtype) -> Augmenter | None:
    asked = config.augment
    if asked.name is None:
        return None
    return Augmenter(
        registry.find("gan_core.augmentations", asked.name).augmentation(**asked.options),
        probability=asked.probability,
        target=asked.target,
        full_kimg=asked.full_kimg,
        batch_size=config.batch_size,
        device=place,
        dtype=dtype,
    )


def _path(config: GanConfig, place: torch.device, dtype: torch.dtype) -> PathLength | None:
    asked = config.regularizers
    if asked.path_length_weight == 0.0:
        return None
    return PathLength(asked.path_length_weight, asked.path_length_interval, torch.zeros(1, device=place, dtype=dtype))


def _path_intervals(config: GanConfig) -> list[int]:
    return [config.regularizers.path_length_interval] if config.regularizers.path_length_weight else []


def _penalties(config: GanConfig, dataset: ImageDataset) -> tuple[tuple[Penalty, ...], int]:
    """Those in force, and how many uniform numbers a decision needs for all of them."""
    shape = torch.Size((dataset.channels * config.network.packing, dataset.resolution, dataset.resolution))
    chosen: list[Penalty] = []
    draws = 0
    for name in config.regularizers.in_force:
        regularizer = REGULARIZERS[name]
        weight = config.regularizers.weight(name) * regularizer.factor
        chosen.append(Penalty(name, regularizer, weight, config.regularizers.interval(name), draws))
        draws += regularizer.draws(shape)
    return tuple(chosen), draws


def _player(network: nn.Module, config: GanConfig, adam: AdamConfig, intervals: Sequence[int], clip_weight: float | None = None) -> Player:
    """With lazy penalties Adam takes more steps, and smaller ones in proportion (1912.04958, appendix B)."""
    parameters = list(network.parameters())
    share = 1.0 / (1.0 + _lazy_steps_per_step(intervals))
    optimizer = Adam(
        parameters,
        lr=adam.lr * share,
        betas=(adam.beta1**share, adam.beta2**share),
        eps=adam.eps,
        capturable=config.speed.cuda_graphs and parameters[0].is_cuda,
        fused=True,  # on CPU too: a step of a small network takes half the time of the foreach one
    )
    buffers = [buffer for buffer in network.buffers() if buffer.is_floating_point()]
    loss = LOSSES[config.loss.name]
    gathers = loss.across_batch or loss.on_witness  # in backward, where a reducer's collectives must not mix with its own
    reducer = None if gathers else distributed.Reducer(parameters)
    return Player(network, parameters, buffers, optimizer, adam.clip_norm, clip_weight, reducer)


def _lazy_steps_per_step(intervals: Sequence[int]) -> float:
    """How many extra optimizer steps lazy penalties add to each of the discriminator's: 1/i for one of interval i.

    Penalties that are due together share a step, so this is the share of whole numbers that one of the intervals divides, by
    inclusion and exclusion: counting through a period could take for ever.
    """
    lazy = {interval for interval in intervals if interval > 1}
    subsets = (subset for size in range(1, len(lazy) + 1) for subset in combinations(lazy, size))
    return sum(((-1.0) ** (len(subset) + 1) / math.lcm(*subset) for subset in subsets), start=0.0)
