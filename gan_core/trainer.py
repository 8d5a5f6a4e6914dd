"""When things happen: rounds of steps until the budget of images is spent, and reports, pictures, scores and checkpoints on the way."""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from gan_core import diagnostics, distributed, evaluation, sampling
from gan_core import micro_batch as memory
from gan_core.building import Parts, build
from gan_core.compiling import compiled
from gan_core.config import GanConfig
from gan_core.datatypes import Batch
from gan_core.evaluation import EvaluationError
from gan_core.game import Shown
from gan_core.history import DivergenceError, require_finite
from gan_core.judge import Scores
from gan_core.micro_batch import OutOfMemoryError
from gan_core.report import Report
from gan_core.state import fresh, gathered, progress, restore
from gan_core.steps import discriminator_step, fakes, generator_step
from gan_core.supply import Supply
from gan_core.taking import taking
from gan_core.wishes import Lookout, Wish

__all__ = ["DivergenceError", "EvaluationError", "OutOfMemoryError", "Report", "Trainer"]


class Trainer:
    """Trains a GAN as `config` says, on `device` (default: the current CUDA device if there is one, else the CPU).

    Every rank of an initialised torch.distributed group makes a Trainer of the same config and calls `run`. With `evaluates=False` somebody
    else scores its checkpoints: it makes no scores, and calls no checkpoint the best. A rank takes at most `micro_batch` images at once,
    where that is given and the batch can be divided so far.

    `company`, where it is set, moves this trainer in place of `train_until_due`: gan_core/population trains many at once.

    Raises:
        ValueError: the data cannot be loaded; data, networks and ranks do not fit each other; or a metric cannot be measured.
    """

    def __init__(
        self,
        config: GanConfig,
        *,
        device: torch.device | str | None = None,
        evaluates: bool = True,
        micro_batch: int | None = None,
    ) -> None:
        self.config = config
        parts = build(config, device)
        steps = memory.accumulation(config, parts.d.network, distributed.world_size(), micro_batch)
        parts = parts._replace(game=parts.game._replace(accumulation_steps=steps))
        self.parts = compiled(config, parts) if config.speed.compile else parts
        self.objective, self._sign = evaluation.objective(config, parts.dataset)
        self.judge = evaluation.build_judge(config, parts.dataset, parts.train, parts.held_out, parts.device) if evaluates else None
        self.state = fresh(config)
        self.stopped = False
        self.company: Callable[[int, Lookout | None], Wish] | None = None

    @property
    def parts(self) -> Parts:
        """What is trained, and on what. `taking` and `supply` are how its steps are taken, and what they are fed with."""
        return self._parts

    @parts.setter
    def parts(self, parts: Parts) -> None:
        self._parts = parts
        self.taking = taking(self.config, parts)
        self.supply = Supply(self.config, parts)

    @property
    def images_seen(self) -> int:
        """The clock."""
        return self.state.images_seen

    @property
    def done(self) -> bool:
        """Whether the budget of images is spent."""
        return self.images_seen >= self.config.total_kimg * 1000

    @property
    def micro_batch(self) -> int:
        """Images that this rank takes at once."""
        return memory.size(self.config, self.parts.game.accumulation_steps, distributed.world_size())

    def halved_micro_batch(self) -> int:
        """Half of `micro_batch`, or the next smaller share of the batch.

        Raises:
            ValueError: it cannot be smaller, and why.
        """
        ranks = distributed.world_size()
        steps = memory.halved(self.config, self.parts.d.network, self.parts.game.accumulation_steps, ranks)
        return memory.size(self.config, steps, ranks)

    def run(self, report: Callable[[Report], None], *, wish: Callable[[], Wish] | None = None) -> None:
        """Train until the budget is spent, calling `report` when something is due and once at the end.

        Every two seconds or so the ranks look for the largest `wish` of any of them. For CHECKPOINT there is an interim report. For STOP
        there is one too, unless the state has just been saved, and `run` returns with `stopped` set.
        A run that was already done when its state was loaded reports nothing.

        Raises:
            DivergenceError: a loss became NaN or infinite.
            OutOfMemoryError: a step found no memory. This trainer is of no use any more.
            EvaluationError: the config names an objective, and it could not be measured; what could is reported first.
            ValueError: the ranks' extractors differ.
            RuntimeError: the ranks' replicas differ.
        """
        if self.judge is not None:
            extractor = self.judge.extractor
            distributed.require_equal_text(extractor.weights_hash, f"extractor {extractor.name}", self.parts.device)
        lookout = None if wish is None else Lookout(wish, self.parts.device)
        self.stopped = False
        with torch.random.fork_rng(devices=[self.parts.device] if self.parts.device.type == "cuda" else []):
            if self.state.reported_at is None:
                self._report(report, previous=-1)
            while not (self.done and self.state.reported_at == self.images_seen):
                wished = (self.company or self.train_until_due)(self.state.reported_at or 0, lookout)
                if wished == Wish.NONE:
                    self._report(report, self.state.reported_at or 0, self.state.window_seconds)
                    wished = Wish.NONE if lookout is None else lookout.look()
                if wished != Wish.NONE and self.images_seen not in (0, self.state.last_good):
                    self._save_between(report)
                if wished == Wish.STOP and not self.done:
                    self.stopped = True
                    return

    def train_until_due(self, previous: int, lookout: Lookout | None) -> Wish:
        """Rounds until something is due, which gives NONE, or until there is a wish. Only here does the clock of device seconds run."""
        started, wished = time.perf_counter(), Wish.NONE
        while wished == Wish.NONE and not self.is_due(previous):
            self._round()
            if lookout is not None and not self.is_due(previous):
                wished = lookout.after_round()
        if self.parts.device.type == "cuda":
            torch.cuda.synchronize(self.parts.device)
        seconds = time.perf_counter() - started
        self.state.window_seconds += seconds
        self.state.device_seconds += seconds * distributed.world_size()
        return wished

    def state_dict(self) -> dict[str, Any]:
        """Everything that a run needs to continue bit for bit."""
        return gathered(self.state, self.config, self.parts)

    def load_state_dict(self, state: Mapping[str, Any], *, perturbed: Iterable[str] = ()) -> None:
        """Continue from `state`, which a run of the same config on the same data has made.

        The config may differ in the keys `perturbed`, whose own values hold from here on while weights and moments are the state's: what
        population based training does (1711.09846, section 3).

        Raises:
            ValueError: the config differs in a key that changes what is computed; or the data's content, or how scores are made; or it is
                no state of such a run. A trainer that refused a state is of no use any more.
        """
        provenance = None if self.judge is None else self.judge.provenance(self.config.evaluation.fake_count)
        restore(self.state, state, self.config, self.parts, provenance=provenance, perturbed=tuple(perturbed))
        self.parts = self.parts  # records hold the memory of the moments before

    def _round(self) -> None:
        """One round of the game: d discriminator steps, g generator steps, one move of the average."""
        began = self.images_seen
        ratio = self.state.ratio.current(began)
        try:
            shown: Shown | None = None
            for number in range(ratio.d):
                shown = self.step_discriminator(keep_fakes=self.config.reuse_fakes and number == ratio.d - 1)
            for _ in range(ratio.g):
                self.step_generator(shown)
                shown = None
        except (RuntimeError, MemoryError) as error:
            if memory.is_out_of_memory(error):
                raise OutOfMemoryError(str(error).partition("\n")[0] or type(error).__name__) from None
            raise
        self.parts.g_ema.update(images=ratio.d * self.config.batch_size, images_seen=self.images_seen)
        self.state.ratio.adjust(self.images_seen, began)

    def step_discriminator(self, *, keep_fakes: bool = False) -> Shown | None:
        """One optimizer step of the discriminator on the next batch; moves the clock. Returns what it was shown, if that is to be kept."""
        parts, state = self.parts, self.state
        if parts.draws_noise:
            sampling.seed_layers(self.config.seed, "d", state.d_steps, parts.device)
        real = self.supply.real("d", state.d_steps)
        latents = Batch(self.supply.z("d", state.d_steps), real.labels)  # so that a pair is of one class
        draws = self.supply.penalty_draws(state.d_steps)
        shown = None
        if keep_fakes:
            shown = Shown(real, latents, fakes(parts.g.call, latents, parts.game))
            stats = discriminator_step(parts.d, parts.g, real, latents, parts.game, step=state.d_steps, draws=draws, fake=shown.fake)
        else:
            stats = self.taking.d(real, latents, draws, state.d_steps)
        state.d_steps += 1
        state.images_seen += self.config.batch_size
        state.ratio.observe(stats)
        state.history.add(stats, state.d_steps)
        return shown

    def step_generator(self, shown: Shown | None = None) -> None:
        """One optimizer step of the generator, on what the discriminator was shown or on new latents."""
        parts, state = self.parts, self.state
        if parts.draws_noise:
            sampling.seed_layers(self.config.seed, "g", state.g_steps, parts.device)
        if shown is not None:
            paired = shown.real if parts.game.loss.generator_reads_real else None
            stats = generator_step(parts.g, parts.d, paired, shown.latents, parts.game, step=state.g_steps, fake=shown.fake)
        else:
            paired = self.supply.real("g", state.g_steps) if parts.game.loss.generator_reads_real else None
            latents = self.supply.latents(state.g_steps)
            if paired is not None:
                latents = latents._replace(labels=paired.labels)  # a pair is of one class here too
            stats = self.taking.g(paired, latents, None, state.g_steps)
        state.g_steps += 1
        state.history.add(stats, state.g_steps)

    def _due(self, every_kimg: float, previous: int) -> bool:
        """Whether the clock has passed a multiple of `every_kimg` since `previous`; a function of counters, so resuming is exact."""
        every = every_kimg * 1000
        return self.images_seen // every > previous // every or self.done

    def is_due(self, previous: int) -> bool:
        """Whether the run is done, or anything of its schedule is due since `previous`."""
        when = self.config.schedule
        return self.done or any(
            self._due(k, previous) for k in (when.report_kimg, when.sample_kimg, when.evaluate_kimg, when.checkpoint_kimg)
        )

    def _report(self, report: Callable[[Report], None], previous: int, seconds: float | None = None) -> None:
        """`seconds` of training since `previous`, None before the first step."""
        when, state = self.config.schedule, self.state
        metrics = state.history.read(state.last_good)
        state.reported_at, state.window_seconds = self.images_seen, 0.0
        if self._due(when.report_kimg, previous):
            if self.config.diagnostics.enabled:
                started = time.perf_counter()
                metrics.update(self._diagnose())
                if seconds is not None:
                    metrics["progress/diagnostics_share"] = (time.perf_counter() - started) / seconds
            state.alarms.look(metrics)
        metrics.update(progress(state, self.parts))
        if seconds is not None:
            metrics["progress/images_per_second"] = (self.images_seen - previous) / seconds
        checkpoint_due = self._due(when.checkpoint_kimg, previous) and self.images_seen > 0
        scores = self._evaluate() if checkpoint_due or self._due(when.evaluate_kimg, previous) else None
        metrics.update(scores.values if scores else {})
        is_best = checkpoint_due and self._is_best(metrics)
        picture = evaluation.picture(self.parts, self.config) if self._due(when.sample_kimg, previous) else None
        if checkpoint_due:
            state.ratio.share()
            self._ready_to_save()
        if is_best:
            state.best = {self.objective: metrics[self.objective], "images_seen": float(self.images_seen)}
        saved = self.state_dict if checkpoint_due else None
        report(Report(self.images_seen, metrics, picture, saved, is_best, self.done, dict(state.alarms.ringing), scores))
        if scores is not None:
            evaluation.require_objective(scores, self.config)

    def _save_between(self, report: Callable[[Report], None]) -> None:
        """An interim report."""
        self._ready_to_save()
        report(Report(self.images_seen, {}, None, self.state_dict, is_best=False, done=False, interim=True))

    def _ready_to_save(self) -> None:
        """Check weights, and gather what one rank alone does not know. All ranks call it together before one calls `state_dict`."""
        for player, name in ((self.parts.g, "generator"), (self.parts.d, "discriminator")):
            require_finite(player.parameters, name, self.state.last_good)
            distributed.require_equal_replicas(player.network, name)
        self.state.collected = self.state.history.state_dict(self.state.last_good)
        self.state.ratio.note()
        self.state.last_good = self.images_seen

    def _evaluate(self) -> Scores | None:
        """Scores of the averaged generator as it is now."""
        if self.judge is None:
            return None
        scores = evaluation.score(self.judge, self.parts, self.config)
        self.state.last_scores, self.state.provenance = scores.values, scores.provenance.as_dict()
        self.state.first_scores = self.state.first_scores or self.state.last_scores
        return scores

    def _is_best(self, metrics: Mapping[str, float]) -> bool:
        """Whether the objective was measured, and is as good as the best so far."""
        if self.objective not in metrics:
            return False
        return self._sign * metrics[self.objective] <= self._sign * self.state.best.get(self.objective, self._sign * math.inf)

    def _diagnose(self) -> dict[str, float]:
        """Diagnostics on a few images drawn for this moment of the clock."""
        config, parts = self.config, self.parts
        if parts.draws_noise:
            sampling.seed_layers(config.seed, "diagnose", self.state.d_steps, parts.device)
        train, held_out, latents = self.supply.to_diagnose(self.state.d_steps)
        return diagnostics.measure(parts.d, parts.g, parts.game, train=train, held_out=held_out, latents=latents)
