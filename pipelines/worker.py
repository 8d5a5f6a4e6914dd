"""One rank of a run, the same under Ray and without it: trains from the last checkpoint to the end, past what faults can be mended."""

import gc
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

from gan_core import DivergenceError, EvaluationError, OutOfMemoryError, Trainer, checkpoint, distributed
from gan_core.building import resolved_precision
from gan_core.overrides import validate
from pipelines import environment, pages
from pipelines.config import JobConfig
from pipelines.desk import AlarmError, Desk, NoMoreError, peak_memory, spent
from pipelines.recovery import Course
from pipelines.run_writer import Record, require_records
from pipelines.session import NO_ORDERS, Job, Orders, Outcome, Session
from pipelines.shelf import StorageError
from pipelines.storage import PENDING, told

LAST_DELIVERY_SECONDS = 5.0  # of a run that was asked to stop: what waits is in its checkpoint
CRASH_DELIVERY_SECONDS = 2.0  # of a run that broke: what was reported since its last checkpoint is nowhere else


class _Resumed(NamedTuple):
    """What a checkpoint holds beside the trainer's state, and which ones were passed over."""

    pending: list[Record]
    damaged: dict[str, str]


class _Ending(NamedTuple):
    """How a run ended on this rank."""

    failure: str = ""
    resumable: bool = False
    stopped: bool = False


def run(job: Job, session: Session) -> Outcome:
    """Train to the end of the budget, from the latest checkpoint if there is one; after a fault that can be mended, again from there.

    Raises:
        OutOfMemoryError: this rank has no memory, and others wait for it; the group is to start again.
    """
    config = validate(job["config"], JobConfig)
    if session.device.type != "cpu":
        return _run(job, config, session)
    torch.set_num_threads(max(1, int(config.ray.cpus_per_worker)))
    with pages.kept():
        return _run(job, config, session)


def _run(job: Job, config: JobConfig, session: Session) -> Outcome:
    entered_at, orders = time.time(), job.get("orders", NO_ORDERS)
    course = Course(session, max_rollbacks=config.ray.max_rollbacks, device=session.device)
    trainer = _build(config, session, course)
    session.wait_for_all()
    resumed, ending = _resume(trainer, session, orders)
    desk = Desk(job, config, session, course, resumed.pending)
    built_at = time.time()
    try:
        if ending is None and (given_up := course.given_up()):
            ending = _Ending(given_up)
        if ending is None:
            desk.begin(trainer)
            desk.note_damaged(resumed.damaged)
            if not spent(orders, trainer.state.device_seconds, session):
                desk.ask_again(trainer)
            else:
                ending = _Ending(stopped=True)
        while ending is None:
            ending = _attempt(trainer, desk, session, course)
            if ending is None:
                del trainer  # with its memory, before the next one is built
                _free_memory(session.device)
                trainer = _build(config, session, course)
                resumed, ending = _resume(trainer, session, orders)
                desk.begin(trainer)
                desk.note_damaged(resumed.damaged)
    except NoMoreError:
        ending = _Ending(stopped=True)
    except BaseException:
        desk.close(CRASH_DELIVERY_SECONDS)
        raise
    return _conclude(trainer, desk, config, ending, entered_at=entered_at, built_at=built_at)


def _conclude(trainer: Trainer, desk: Desk, config: JobConfig, ending: _Ending, *, entered_at: float, built_at: float) -> Outcome:
    """Deliver what waits; returns what the run came to."""
    finished_at, session, state = time.time(), desk.session, trainer.state
    peak = torch.tensor([peak_memory(session.device)], dtype=torch.int64, device=session.device)
    peaks = distributed.gather(peak).tolist()  # before close, which may wait for longer than a collective's time-out
    undelivered = desk.close(min(desk.patience, LAST_DELIVERY_SECONDS) if trainer.stopped else desk.patience)
    return Outcome(
        images_seen=trainer.images_seen,
        d_steps=state.d_steps,
        g_steps=state.g_steps,
        device_seconds=state.device_seconds,
        first_scores=state.first_scores,
        last_scores=state.last_scores,
        best=state.best,
        peak_memory_bytes=peaks,
        entered_at=entered_at,
        built_at=built_at,
        training_at=desk.training_at or built_at,
        finished_at=finished_at,
        failure=ending.failure,
        resumable=ending.resumable,
        stopped=ending.stopped,
        undelivered="" if trainer.stopped else undelivered,
        hardware=environment.describe_hardware()["summary"],
        precision=resolved_precision(config, session.device),
    )


def _build(config: JobConfig, session: Session, course: Course) -> Trainer:
    evaluates = not config.ray.asynchronous_evaluation
    trainer = Trainer(config.gan(), device=session.device, evaluates=evaluates, micro_batch=course.micro_batch)
    session.begin(trainer)
    return trainer


def _resume(trainer: Trainer, session: Session, orders: Orders) -> tuple[_Resumed, _Ending | None]:
    """Load the newest sound checkpoint if there is one. An ending says why the run cannot go on from what there is."""
    failure, away, resumed = "", False, _Resumed([], {})
    try:
        with session.latest_checkpoint() as found:
            if found.folder is not None:
                trainer.load_state_dict(checkpoint.load(found.folder), perturbed=orders["perturbed"])
                resumed = _Resumed(require_records(_read_json(found.folder / PENDING)), found.damaged)
                if session.rank == 0:
                    for sentence in told(found):
                        session.say(sentence)
                    session.say(f"continuing from the checkpoint at {trainer.images_seen / 1000:.1f} kimg")
    except ValueError as error:
        failure = str(error)
    except StorageError as error:
        failure, away = str(error), True
    if distributed.any_rank(bool(failure), session.device):  # all together, or those who could would wait for the others
        return resumed, _Ending(failure or "another worker could not load the checkpoint; its log says why", resumable=away or not failure)
    return resumed, None


def _attempt(trainer: Trainer, desk: Desk, session: Session, course: Course) -> _Ending | None:
    """Train on; returns None where a fault is to be mended by going back to the last checkpoint."""
    failure = ""
    try:
        trainer.run(desk.receive, wish=session.wish)
        desk.tell_taking(trainer)
        return _Ending(stopped=trainer.stopped)
    except StorageError as error:
        return _Ending(str(error), resumable=True)
    except (EvaluationError, AlarmError) as error:
        return _Ending(str(error))
    except DivergenceError as error:
        failure = course.after_divergence(error, trainer.images_seen, desk.tell)
    except OutOfMemoryError as error:
        failure = course.after_out_of_memory(error, trainer)
        if distributed.world_size() > 1:
            session.say(failure or f"rank {session.rank} is out of memory; the workers start again with smaller parts of the batch")
            raise
    return _Ending(failure) if failure else None


def _read_json(path: Path) -> Any:
    """A small file's content.

    Raises:
        ValueError: it is no JSON, or is nested too deeply to be ours.
    """
    try:
        return json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} in the checkpoint is no JSON of ours: {type(error).__name__}") from None


def _free_memory(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
