"""Members of one architecture, data set, batch size and precision as one program: who takes which step when."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gan_core.datatypes import Batch
from gan_core.fitting import has_batch_norm
from gan_core.history import Keys
from gan_core.losses import LossFunction
from gan_core.overrides import flatten
from gan_core.population.feed import Feed
from gan_core.population.fines import Fines, forget_if_many
from gan_core.population.modules import why_not_stacked
from gan_core.population.optimizer import StackedAdam, StackedAverage
from gan_core.population.players import Rows, StackedPlayer
from gan_core.population.steps import Columns, Fine, Late, Losses, Rules, Side, Thresholds, discriminator_step, generator_step
from gan_core.taking import taking
from gan_core.trainer import Trainer

SHARED = ("data.", "network.", "augment.", "batch_size", "precision", "diagnostics.held_out")  # what a pack's members have in common
JUDGED = ("d/loss", "d/real_logits", "d/fake_logits", "d/accuracy_real", "d/accuracy_fake")


def why_not_batched(trainer: Trainer) -> str | None:
    """Why a run trains by itself within a population; None where it can be batched with others."""
    config, parts, game = trainer.config, trainer.parts, trainer.parts.game
    reasons = {
        "it accumulates gradients": game.accumulation_steps > 1,
        "it reuses fakes": config.reuse_fakes,
        f"the loss {config.loss.name} compares features across a batch": game.loss.on_witness,
        "the penalty lecam keeps running means": game.anchors is not None,
        f"the augmentation {config.augment.name} keeps a state, and draws by the place in a batch": game.augmenter is not None,
        "the path length penalty keeps a running mean": game.path is not None,
        "its layers draw noise": parts.draws_noise,
    }
    in_the_way = [reason for reason, holds in reasons.items() if holds]
    for name, player in (("generator", parts.g), ("discriminator", parts.d)):
        if (reason := why_not_stacked(player.network)) is not None:
            in_the_way.append(f"of the {name}, {reason}")
    return in_the_way[0] if in_the_way else None


def architecture(trainer: Trainer) -> tuple[object, ...]:
    """What is equal for members of one pack."""
    keys = flatten(trainer.config)
    shared = tuple((key, value) for key, value in keys.items() if key.startswith(SHARED))
    return (*shared, trainer.parts.dataset.content_hash, str(trainer.parts.device))


class Round:
    """A round of one member, from its beginning."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer, self._state = trainer, trainer.state
        self._began, self._d_began = trainer.state.images_seen, trainer.state.d_steps
        self.ratio = trainer.state.ratio.current(self._began)

    @property
    def has_begun(self) -> bool:
        """Whether a step was taken."""
        return self._state.d_steps > self._d_began

    def is_over_for_d(self) -> bool:
        """Whether the discriminator has taken its steps."""
        return self._state.d_steps - self._d_began == self.ratio.d

    def share_of_average(self) -> float:
        """How far the average moves at the end."""
        images = self.ratio.d * self._trainer.config.batch_size
        return self._trainer.parts.g_ema.share(images=images, images_seen=self._state.images_seen)

    def end(self) -> None:
        self._state.ratio.adjust(self._state.images_seen, self._began)


class _Choice(NamedTuple):
    """Members that take a generator step together, and those of them whose loss reads real images, with their places among them."""

    rows: Rows
    readers: Rows | None
    reading: Rows | None
    losses: Losses


class Pack:
    """Moves `trainers` of one architecture, in the middle of those `rounds` that have begun.

    Their tensors are views of its stacks until they are released.
    """

    def __init__(self, trainers: Sequence[Trainer], rounds: Mapping[Trainer, Round]) -> None:
        self.trainers = sorted(trainers, key=_place)
        self._rounds = [rounds[trainer] if trainer in rounds else Round(trainer) for trainer in self.trainers]
        parts = self.trainers[0].parts
        self._device = parts.device
        d, g = StackedPlayer([t.parts.d for t in self.trainers]), StackedPlayer([t.parts.g for t in self.trainers])
        self.d, self.g = Side(d, StackedAdam(d)), Side(g, StackedAdam(g))
        self._average = StackedAverage([trainer.parts.g_ema for trainer in self.trainers], g)
        self._feed = Feed(self.trainers)
        apart = has_batch_norm(parts.d.network) or any(trainer.parts.game.loss.generator_reads_real for trainer in self.trainers)
        self._rules = Rules(parts.game.packing, parts.game.autocast, joint=not apart)
        self._fines = Fines(self.trainers, self._feed)
        everyone = tuple(range(len(self.trainers)))
        self._everyone = Rows.of(everyone, self._device)
        self._d_losses = self._losses(everyone, [trainer.parts.game.loss.discriminator for trainer in self.trainers])
        limits = [trainer.parts.game.loss.threshold for trainer in self.trainers]
        values = torch.tensor([[0.0 if limit is None else limit] for limit in limits], device=self._device, dtype=parts.dtype)
        self._thresholds = Thresholds(values, torch.tensor([[limit is None] for limit in limits], device=self._device))
        for trainer in self.trainers:
            _forget_records(trainer)
        self._known_choices: dict[tuple[int, ...], _Choice] = {}

    def release(self, trainer: Trainer) -> None:
        """Give the member tensors of its own."""
        number = self.trainers.index(trainer)
        for stack in (self.d.player, self.g.player, self._average):
            stack.release(number)
        _forget_records(trainer)

    def holds(self, trainer: Trainer) -> bool:
        """Whether the member's tensors are still those of the pack; not after it has loaded a state."""
        number = self.trainers.index(trainer)
        return self.d.player.holds(number) and self.g.player.holds(number)

    def round_of(self, trainer: Trainer) -> Round:
        """Where the member is."""
        return self._rounds[self.trainers.index(trainer)]

    def tick(self) -> list[Trainer]:
        """A step of every discriminator; those members that have taken all of a round's then end it. Returns them."""
        self._step_discriminators()
        ended = [number for number, current in enumerate(self._rounds) if current.is_over_for_d()]
        for turn in range(max((self._rounds[number].ratio.g for number in ended), default=0)):
            self._step_generators(tuple(number for number in ended if self._rounds[number].ratio.g > turn))
        if ended:
            shares = [0.0] * len(self.trainers)
            for number in ended:
                shares[number] = self._rounds[number].share_of_average()
            self._average.update(shares)
        for number in ended:
            self._rounds[number].end()
            self._rounds[number] = Round(self.trainers[number])
        return [self.trainers[number] for number in ended]

    def _step_discriminators(self) -> None:
        states = [trainer.state for trainer in self.trainers]
        steps = [state.d_steps for state in states]
        real = self._feed.real("d", self._everyone, steps)
        latents = Batch(self._feed.z("d", self._everyone, steps), real.labels)  # so that a pair is of one class
        fines, late = self._fines.due(steps)
        columns = discriminator_step(
            self.d,
            self.g,
            real,
            latents,
            self._rules,
            everyone=self._everyone,
            losses=self._d_losses,
            thresholds=self._thresholds,
            fines=fines,
            late=late,
        )
        for number, state in enumerate(states):
            state.d_steps += 1
            state.images_seen += self._feed.batch_size
            if state.ratio.band is not None:
                state.ratio.observe({key: columns[key][number] for key in ("d/accuracy_real", "d/accuracy_fake")})
        self._note(columns, self._keys(fines, late), [state.d_steps for state in states])

    def _step_generators(self, numbers: tuple[int, ...]) -> None:
        choice = self._choice(numbers)
        states = [self.trainers[number].state for number in numbers]
        steps = [state.g_steps for state in states]
        latents = self._feed.latents(choice.rows, steps)
        real = None
        if choice.readers is not None and choice.reading is not None:
            real = self._feed.real("g", choice.readers, [steps[place] for place in choice.reading.numbers])
            if latents.labels is not None and real.labels is not None:  # a pair is of one class here too
                labels = latents.labels.view(len(numbers), -1).clone()
                labels[choice.reading.pick] = real.labels.view(len(choice.readers.numbers), -1)
                latents = latents._replace(labels=labels.flatten())
        columns = generator_step(
            self.g,
            self.d,
            real,
            latents,
            self._rules,
            rows=choice.rows,
            readers=choice.readers,
            reading=choice.reading,
            losses=choice.losses,
        )
        vectors = torch.stack(list(columns.values()), dim=1).unbind()
        for state, vector in zip(states, vectors, strict=True):
            state.g_steps += 1
            state.history.add_vector(tuple(columns), vector, state.g_steps)

    def _choice(self, numbers: tuple[int, ...]) -> _Choice:
        if numbers not in self._known_choices:
            forget_if_many(self._known_choices)
            places = [place for place, number in enumerate(numbers) if self.trainers[number].parts.game.loss.generator_reads_real]
            readers = Rows.of([numbers[place] for place in places], self._device) if places else None
            reading = Rows.of(places, self._device) if places else None
            losses = self._losses(numbers, [self.trainers[number].parts.game.generator_loss for number in numbers])
            self._known_choices[numbers] = _Choice(Rows.of(numbers, self._device), readers, reading, losses)
        return self._known_choices[numbers]

    def _losses(self, numbers: Sequence[int], functions: Sequence[LossFunction]) -> Losses:
        """The members' losses, called as few times as they can be."""
        groups: dict[object, list[int]] = {}
        for place, (number, function) in enumerate(zip(numbers, functions, strict=True)):
            by_itself = self.trainers[number].parts.game.loss.across_batch
            groups.setdefault((function, number if by_itself else None), []).append(place)
        order = [place for places in groups.values() for place in places]
        called = tuple((functions[places[0]], Rows.of(places, self._device)) for places in groups.values())
        back = sorted(range(len(order)), key=order.__getitem__)
        return Losses(called, None if order == sorted(order) else torch.tensor(back, device=self._device))

    def _keys(self, fines: Sequence[Fine], late: Late | None) -> list[Keys]:
        """The names of each member's statistics in a discriminator step, in the order in which it has them alone."""
        keys: list[list[str]] = [[*JUDGED] for _ in self.trainers]
        for paid, norm in ((fines, "d/gradient_norm"), (late.fines if late else (), "d/penalty_gradient_norm")):
            for fine in paid:
                for number in fine.rows.numbers:
                    keys[number].append(f"d/penalty/{fine.name}")
            for number in range(len(keys)):
                if paid is fines or keys[number][-1] != "d/gradient_norm":
                    keys[number].append(norm)
        return [tuple(own) for own in keys]

    def _note(self, columns: Columns, keys: Sequence[Keys], steps: Sequence[int]) -> None:
        """A row for each member's history."""
        tables: dict[Keys, tuple[Tensor, ...]] = {}
        for number, (own, step) in enumerate(zip(keys, steps, strict=True)):
            if own not in tables:
                tables[own] = torch.stack([columns[key] for key in own], dim=1).unbind()
            self.trainers[number].state.history.add_vector(own, tables[own][number], step)


def _forget_records(trainer: Trainer) -> None:
    """Steps recorded as CUDA graphs read and write the memory that the member's tensors had."""
    trainer.taking = taking(trainer.config, trainer.parts)


def _place(trainer: Trainer) -> tuple[int, int, str, str]:
    """Members that do the same at the same time lie together, as a slice of the stacks. Generators of d:g step once in d steps of their
    discriminators: with 1:g in the middle, and even and odd d on either side, nearly all that meet are neighbours.
    """
    ratio = trainer.state.ratio.current(trainer.state.images_seen)
    side = 0 if ratio.d == 1 else ratio.d if ratio.d % 2 == 0 else -ratio.d
    penalties = [(penalty.name, penalty.interval) for penalty in trainer.parts.game.penalties]
    return side, ratio.g, str(penalties), trainer.config.loss.name
