"""When things happen: rounds of steps until the budget of images is spent, and reports, pictures, scores and checkpoints on the way."""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8

from gan_core import diagnostics, distributed, evaluation, sampling
from gan_core import micro_batch as memory
from gan_core.building import Parts, build, build_ratio, build_thresholds
from gan_core.checkpoint import load_moments
from gan_core.config import FREE_ON_RESUME, GanConfig
from gan_core.datatypes import Batch
from gan_core.evaluation import EvaluationError
from gan_core.history import DivergenceError, History, require_finite
from gan_core.judge import Scores
from gan_core.micro_batch import OutOfMemoryError
from gan_core.overrides import differences_that_matter, flatten, unflatten, validate
from gan_core.provenance import Provenance, require_same
from gan_core.steps import discriminator_step, generator_step
from gan_core.supply import Supply
from gan_core.wishes import Lookout, Wish

__all__ = ["DivergenceError", "EvaluationError", "OutOfMemoryError", "Report", "Trainer"]


class Report(NamedTuple):
    """What a run has to say at one moment of its clock, `images_seen`; the same on every rank.

    `metrics` are means since the last report. `state` gives the state to save, and is None where no checkpoint is due; it is
    to be called before the receiver returns. `is_best` says that this checkpoint has the best score so far. `alarms` holds those
    that ring, each with its reason; `scores`, where there was an evaluation, which metrics failed and how the others were measured.

    An `interim` report is one that somebody wished for: it has a state to save and nothing else, so that a run has the same points with and
    without it.
    """

    images_seen: int
    metrics: dict[str, float]
    picture: UInt8[np.ndarray, "rows columns 3"] | None
    state: Callable[[], dict[str, Any]] | None
    is_best: bool
    done: bool
    alarms: dict[str, str] = {}  # noqa: RUF012 - never written to
    scores: Scores | None = None
    interim: bool = False


class Trainer:
    """Trains a GAN as `config` says, on `device` (default: the current CUDA device if there is one, else the CPU).

    Every rank of an initialised torch.distributed group makes a Trainer of the same config and calls `run`. With `evaluates=False` somebody
    else scores its checkpoints: it makes no scores, and calls no checkpoint the best. A rank takes at most `micro_batch` images at once,
    where that is given and the batch can be divided so far.

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
        self.parts: Parts = parts
        self.objective, self._sign = evaluation.objective(config, parts.dataset)
        self.judge = evaluation.build_judge(config, parts.dataset, parts.train, parts.held_out, parts.device) if evaluates else None
        self.ratio = build_ratio(config)
        self.alarms = diagnostics.Alarms(build_thresholds(config))
        self.d_steps = 0
        self.g_steps = 0
        self.images_seen = 0
        self.device_seconds = 0.0
        self.first_scores: dict[str, float] = {}
        self.last_scores: dict[str, float] = {}
        self.best: dict[str, float] = {}
        self.stopped = False
        self._reported_at: int | None = None
        self._window_seconds = 0.0
        self._last_good: int | None = None
        self._provenance: dict[str, Any] | None = None
        self._history = History()
        self._collected: list[dict[str, Any]] = []

    @property
    def supply(self) -> Supply:
        """What the steps are fed with."""
        return Supply(self.config, self.parts)

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
            if self._reported_at is None:
                self._report(report, previous=-1)
            while not (self.done and self._reported_at == self.images_seen):
                wished = self._train_until_due(self._reported_at or 0, lookout)
                if wished == Wish.NONE:
                    self._report(report, self._reported_at or 0, self._window_seconds)
                    wished = Wish.NONE if lookout is None else lookout.look()
                if wished != Wish.NONE and self.images_seen not in (0, self._last_good):
                    self._save_between(report)
                if wished == Wish.STOP and not self.done:
                    self.stopped = True
                    return

    def _train_until_due(self, previous: int, lookout: Lookout | None) -> Wish:
        """Rounds until something is due, which gives NONE, or until there is a wish. Only here does the clock of device seconds run."""
        started, wished = time.perf_counter(), Wish.NONE
        while wished == Wish.NONE and not (self.done or self._anything_due(previous)):
            self._round()
            if lookout is not None and not (self.done or self._anything_due(previous)):
                wished = lookout.after_round()
        if self.parts.device.type == "cuda":
            torch.cuda.synchronize(self.parts.device)
        seconds = time.perf_counter() - started
        self._window_seconds += seconds
        self.device_seconds += seconds * distributed.world_size()
        return wished

    def state_dict(self) -> dict[str, Any]:
        """Everything that a run needs to continue bit for bit: there is no random state, only counters."""
        parts = self.parts
        return {
            "config": flatten(self.config),
            "content_hash": parts.dataset.content_hash,
            "d_steps": self.d_steps,
            "g_steps": self.g_steps,
            "images_seen": self.images_seen,
            "device_seconds": self.device_seconds,
            "reported_at": self._reported_at,
            "window_seconds": self._window_seconds,
            "collected": self._collected,
            "first_scores": self.first_scores,
            "last_scores": self.last_scores,
            "best": self.best,
            "provenance": self._provenance,
            "ratio": self.ratio.state_dict(),
            "alarms": self.alarms.state_dict(),
            "anchors": parts.game.anchors,
            "augmenter": None if parts.game.augmenter is None else parts.game.augmenter.state_dict(),
            "path_length": None if parts.game.path is None else parts.game.path.mean,
            "generator": parts.g.network.state_dict(),
            "discriminator": parts.d.network.state_dict(),
            "g_ema": parts.g_ema.network.state_dict(),
            "generator_optimizer": parts.g.optimizer.state_dict(),
            "discriminator_optimizer": parts.d.optimizer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any], *, perturbed: Iterable[str] = ()) -> None:
        """Continue from `state`, which a run of the same config on the same data has made.

        The config may differ in the keys `perturbed`, whose own values hold from here on while weights and moments are the state's: what
        population based training does (1711.09846, section 3).

        Raises:
            ValueError: the config differs in a key that changes what is computed; or the data's content, or how scores are made; or it is
                no state of such a run. A trainer that refused a state is of no use any more.
        """
        try:
            self._load(state, tuple(perturbed))
        except (KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
            raise ValueError(f"the checkpoint holds no state of this run: {type(error).__name__}: {error}") from None

    def _load(self, state: Mapping[str, Any], perturbed: tuple[str, ...]) -> None:
        mine = flatten(self.config)
        theirs = flatten(validate(unflatten(state["config"]), GanConfig))  # what a former version did not know has its default
        changed = differences_that_matter(theirs, mine, (*FREE_ON_RESUME, *perturbed))
        if changed:
            raise ValueError("the checkpoint was made with another config; differing keys:\n  " + "\n  ".join(changed))
        if state["content_hash"] != self.parts.dataset.content_hash:
            raise ValueError(
                f"the checkpoint was made with other data: content hash {state['content_hash'][:12]}, "
                f"now {self.parts.dataset.content_hash[:12]} from {self.parts.dataset.source}"
            )
        if self.judge is not None and state["provenance"] is not None:
            before, now = Provenance.from_dict(state["provenance"]), self.judge.provenance(self.config.evaluation.fake_count)
            require_same(before, now, "the checkpoint's scores")
        parts = self.parts
        self._provenance = state["provenance"]
        for name in ("d_steps", "g_steps", "images_seen", "device_seconds", "first_scores", "last_scores", "best"):
            setattr(self, name, state[name])
        if "step_ratio" not in perturbed or theirs["step_ratio"] == mine["step_ratio"]:
            self.ratio.load_state_dict(state["ratio"])
        self.alarms.load_state_dict(state["alarms"])
        if parts.game.anchors is not None:
            parts.game.anchors.copy_(state["anchors"])
        if parts.game.augmenter is not None and "augment.probability" not in perturbed:
            parts.game.augmenter.load_state_dict(state["augmenter"])
        if parts.game.path is not None:
            parts.game.path.mean.copy_(state["path_length"])
        parts.g.network.load_state_dict(state["generator"])
        parts.d.network.load_state_dict(state["discriminator"])
        parts.g_ema.network.load_state_dict(state["g_ema"])
        load_moments(parts.g.optimizer, state["generator_optimizer"])
        load_moments(parts.d.optimizer, state["discriminator_optimizer"])
        # A former version saved at reports only, when nothing was collected.
        self._reported_at, self._window_seconds = state.get("reported_at", self.images_seen or None), state.get("window_seconds", 0.0)
        self._history.load_state_dict(state.get("collected", ()))
        self._last_good = self.images_seen

    def _round(self) -> None:
        """One round of the game: d discriminator steps, g generator steps, one move of the average."""
        began = self.images_seen
        ratio = self.ratio.current(began)
        try:
            for _ in range(ratio.d):
                self.step_discriminator()
            for _ in range(ratio.g):
                self.step_generator()
        except RuntimeError as error:
            if memory.is_out_of_memory(error):
                raise OutOfMemoryError(str(error).partition("\n")[0]) from None
            raise
        self.parts.g_ema.update(images=ratio.d * self.config.batch_size, images_seen=self.images_seen)
        self.ratio.adjust(self.images_seen, began)

    def step_discriminator(self) -> None:
        """One optimizer step of the discriminator on the next batch; moves the clock."""
        parts = self.parts
        if parts.draws_noise:
            sampling.seed_layers(self.config.seed, "d", self.d_steps, parts.device)
        real = self.supply.real("d", self.d_steps)
        latents = Batch(self.supply.z("d", self.d_steps), real.labels)  # so that a pair is of one class
        draws = self.supply.penalty_draws(self.d_steps)
        stats = discriminator_step(parts.d, parts.g, real, latents, parts.game, step=self.d_steps, draws=draws)
        self.d_steps += 1
        self.images_seen += self.config.batch_size
        self.ratio.observe(stats)
        self._history.add(stats, self.d_steps)

    def step_generator(self) -> None:
        """One optimizer step of the generator."""
        parts = self.parts
        if parts.draws_noise:
            sampling.seed_layers(self.config.seed, "g", self.g_steps, parts.device)
        paired = self.supply.real("g", self.g_steps) if parts.game.loss.generator_reads_real else None
        latents = self.supply.latents(self.g_steps)
        if paired is not None:
            latents = latents._replace(labels=paired.labels)  # a pair is of one class here too
        stats = generator_step(parts.g, parts.d, paired, latents, parts.game, step=self.g_steps)
        self.g_steps += 1
        self._history.add(stats, self.g_steps)

    def _due(self, every_kimg: float, previous: int) -> bool:
        """Whether the clock has passed a multiple of `every_kimg` since `previous`; a function of counters, so resuming is exact."""
        every = every_kimg * 1000
        return self.images_seen // every > previous // every or self.done

    def _anything_due(self, previous: int) -> bool:
        when = self.config.schedule
        return any(self._due(k, previous) for k in (when.report_kimg, when.sample_kimg, when.evaluate_kimg, when.checkpoint_kimg))

    def _report(self, report: Callable[[Report], None], previous: int, seconds: float | None = None) -> None:
        """`seconds` of training since `previous`, None before the first step."""
        when = self.config.schedule
        metrics = self._history.read(self._last_good)
        self._reported_at, self._window_seconds = self.images_seen, 0.0
        if self._due(when.report_kimg, previous):
            if self.config.diagnostics.enabled:
                started = time.perf_counter()
                metrics.update(self._diagnose())
                if seconds is not None:
                    metrics["progress/diagnostics_share"] = (time.perf_counter() - started) / seconds
            self.alarms.look(metrics)
        metrics.update({f"alarm/{name}": float(name in self.alarms.ringing) for name in self.alarms.NAMES})
        ratio = self.ratio.current(self.images_seen)
        metrics["progress/ratio_d"], metrics["progress/ratio_g"] = float(ratio.d), float(ratio.g)
        if self.ratio.advantage is not None:
            metrics["d/advantage"] = self.ratio.advantage
        if seconds is not None:
            metrics["progress/images_per_second"] = (self.images_seen - previous) / seconds
        if self.parts.game.augmenter is not None:
            metrics.update(self.parts.game.augmenter.metrics())
        metrics["progress/d_steps"] = float(self.d_steps)
        metrics["progress/g_steps"] = float(self.g_steps)
        metrics["progress/device_seconds"] = self.device_seconds
        checkpoint_due = self._due(when.checkpoint_kimg, previous) and self.images_seen > 0
        scores = self._evaluate() if checkpoint_due or self._due(when.evaluate_kimg, previous) else None
        metrics.update(scores.values if scores else {})
        is_best = checkpoint_due and self._is_best(metrics)
        picture = evaluation.picture(self.parts, self.config) if self._due(when.sample_kimg, previous) else None
        if checkpoint_due:
            self.ratio.share()
            self._ready_to_save()
        if is_best:
            self.best = {self.objective: metrics[self.objective], "images_seen": float(self.images_seen)}
        state = self.state_dict if checkpoint_due else None
        report(Report(self.images_seen, metrics, picture, state, is_best, self.done, dict(self.alarms.ringing), scores))
        if scores is not None:
            evaluation.require_objective(scores, self.config)

    def _save_between(self, report: Callable[[Report], None]) -> None:
        """An interim report."""
        self._ready_to_save()
        report(Report(self.images_seen, {}, None, self.state_dict, is_best=False, done=False, interim=True))

    def _ready_to_save(self) -> None:
        """Check weights, and gather what one rank alone does not know. All ranks call it together before one calls `state_dict`."""
        for player, name in ((self.parts.g, "generator"), (self.parts.d, "discriminator")):
            require_finite(player.parameters, name, self._last_good)
            distributed.require_equal_replicas(player.network, name)
        self._collected = self._history.state_dict(self._last_good)
        self.ratio.note()
        self._last_good = self.images_seen

    def _evaluate(self) -> Scores | None:
        """Scores of the averaged generator as it is now."""
        if self.judge is None:
            return None
        scores = evaluation.score(self.judge, self.parts, self.config)
        self.last_scores, self._provenance = scores.values, scores.provenance.as_dict()
        self.first_scores = self.first_scores or self.last_scores
        return scores

    def _is_best(self, metrics: Mapping[str, float]) -> bool:
        """Whether the objective was measured, and is as good as the best so far."""
        if self.objective not in metrics:
            return False
        return self._sign * metrics[self.objective] <= self._sign * self.best.get(self.objective, self._sign * math.inf)

    def _diagnose(self) -> dict[str, float]:
        """Diagnostics on a few images drawn for this moment of the clock."""
        config, parts = self.config, self.parts
        if parts.draws_noise:
            sampling.seed_layers(config.seed, "diagnose", self.d_steps, parts.device)
        train, held_out, latents = self.supply.to_diagnose(self.d_steps)
        return diagnostics.measure(parts.d, parts.g, parts.game, train=train, held_out=held_out, latents=latents)
