"""Who trains together: each member is an ordinary Trainer that runs in a thread of its own, one thread at a time."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch

from gan_core import distributed
from gan_core.micro_batch import OutOfMemoryError, is_out_of_memory
from gan_core.population.engine import Engine
from gan_core.trainer import Report, Trainer
from gan_core.wishes import Lookout, Wish


@dataclass(eq=False)
class _Seat:
    """A thread's place. `waits` says that its trainer is to be moved; `woken` is set when the thread has something to do."""

    woken: threading.Event = field(default_factory=threading.Event)
    trainer: Trainer | None = None
    waits: bool = False
    previous: int = 0
    lookout: Lookout | None = None
    wished: Wish = Wish.NONE
    error: Exception | None = None

    def is_due(self) -> bool:
        assert self.trainer is not None
        return self.wished != Wish.NONE or self.error is not None or self.trainer.is_due(self.previous)

    def after_round(self) -> None:
        """Look for a wish where it is time to, as the trainer itself does."""
        if self.lookout is not None and not self.is_due():
            self.wished = self.lookout.after_round()


class Population:
    """Trains up to `size` members together on one device; each is a Trainer with a config, reports, scores and checkpoints of its own.

    Every member has a thread, and of those threads exactly one runs at any time: the others wait for their turn, so that nothing of a
    member's thread needs a lock. What a thread does in its `seat` is ordinary code for one run:

        with population.seat():             # waits for the turn, and counts as arrived
            trainer = Trainer(config)       # built here, its checkpoint loaded here
            population.join(trainer)        # from here on `run` moves it together with the others
            trainer.run(report, wish=wish)  # `report` is called in this thread, `wish` in that of any member
        # left: the trainer owns its tensors again, and the others go on without it

    The first round begins when `size` seats have been taken, and either joined or left. A round is taken when every member in a seat waits
    in its `run`; one whose report is due stops the others until it is back, or has left: finished, stopped by its wish, or by an error
    such as DivergenceError, which is its own. Members may join later too. `run` does all of this for trainers that exist already.

    Members of one architecture, data set, batch size and precision form one batched program (gan_core/population/pack.py); others, and
    those for which `why_not_batched` has a reason, train in turn. In either case a member equals the same run alone, to rounding; its
    batches, latents and other draws have the same bits, so a member's checkpoint continues alone and the other way round.
    `device_seconds` are a member's share of the seconds that all trained together.

    Raises:
        ValueError: `size` is not positive.
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"a population has at least one member, given {size}")
        self._size = size
        self._arrived = 0
        self._baton = threading.Lock()
        self._seats: dict[int, _Seat] = {}
        self._engine = Engine()
        self._failure: Exception | None = None

    @contextmanager
    def seat(self) -> Iterator[None]:
        """The calling thread's place in the population, and its turn."""
        name = threading.get_ident()
        with self._baton:
            self._arrived += 1
            seat = self._seats[name] = _Seat()
            try:
                yield
            finally:
                try:
                    if seat.trainer is not None:
                        self.leave(seat.trainer)
                finally:  # whatever becomes of this one, the others go on
                    del self._seats[name]
                    self._wake_one()

    @property
    def failure(self) -> Exception | None:
        """What ended the training of all members, where a step of all has failed."""
        return self._failure

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Give the calling thread's turn to others while it waits for something outside; no round is taken until it is back."""
        self._baton.release()
        try:
            yield
        finally:
            self._baton.acquire()

    def join(self, trainer: Trainer) -> None:
        """Let the population move `trainer`, in place of one that the calling thread's seat had before.

        Raises:
            ValueError: several ranks train together; a population has one.
        """
        if distributed.world_size() > 1:
            raise ValueError(f"a population trains on one rank, and there are {distributed.world_size()}")
        seat = self._seats[threading.get_ident()]
        if seat.trainer is not None:
            self.leave(seat.trainer)
        seat.trainer = trainer
        trainer.company = partial(self._train, seat)
        self._engine.add(trainer)

    def leave(self, trainer: Trainer) -> None:
        """Give `trainer` tensors of its own again; its `run` then trains it alone."""
        seat = self._seats[threading.get_ident()]
        assert seat.trainer is trainer, "a seat's thread takes its own trainer away"
        self._engine.remove(trainer)
        seat.trainer = trainer.company = None

    def run(
        self,
        trainers: Sequence[Trainer],
        reports: Sequence[Callable[[Report], None]],
        *,
        wishes: Sequence[Callable[[], Wish]] | None = None,
    ) -> list[Exception | None]:
        """`run(report, wish=wish)` of all trainers together; returns for each the exception that ended it, or None.

        Raises:
            ValueError: the numbers of trainers, reports, wishes and seats differ.
        """
        hopes: Sequence[Callable[[], Wish] | None] = [None] * len(trainers) if wishes is None else wishes
        if not len(trainers) == len(reports) == len(hopes) == self._size:
            raise ValueError(f"{self._size} seats for {len(trainers)} trainers with {len(reports)} reports and {len(hopes)} wishes")
        errors: list[Exception | None] = [None] * len(trainers)

        def life(number: int) -> None:
            try:
                with self.seat():
                    self.join(trainers[number])
                    trainers[number].run(reports[number], wish=hopes[number])
            except Exception as error:
                errors[number] = error

        threads = [threading.Thread(target=life, args=(number,), name=f"member {number}", daemon=True) for number in range(self._size)]
        with torch.random.fork_rng(devices=[]):
            for thread in threads:
                thread.start()
            try:
                for thread in threads:
                    thread.join()
            except BaseException:  # an interruption of this thread is one of all
                self._failure = RuntimeError("the population was interrupted")
                for seat in list(self._seats.values()):
                    seat.woken.set()
                raise
        return errors

    def _train(self, seat: _Seat, previous: int, lookout: Lookout | None) -> Wish:
        """What `Trainer.train_until_due` does, in company: blocks until the seat's member is due."""
        seat.previous, seat.lookout, seat.wished, seat.error = previous, lookout, Wish.NONE, None
        seat.waits = not seat.is_due()
        while seat.waits:
            if self._all_wait():
                self._advance()
            else:
                self._baton.release()
                seat.woken.wait()
                self._baton.acquire()
                seat.woken.clear()
            if self._failure is not None:
                seat.waits = False
                raise _for_one(self._failure) from self._failure
        if seat.error is not None:
            raise seat.error
        return seat.wished

    def _all_wait(self) -> bool:
        return self._arrived >= self._size and all(seat.waits for seat in self._seats.values())

    def _advance(self) -> None:
        """Rounds of all members until one is due."""
        seats = {seat.trainer: seat for seat in self._seats.values() if seat.trainer is not None}
        started = time.perf_counter()
        try:
            self._engine.look()
            while self._failure is None and all(seat.waits for seat in seats.values()):
                for trainer, error in self._engine.tick(lambda trainer: seats[trainer].waits):
                    seat = seats[trainer]
                    seat.error = error
                    seat.after_round()
                    seat.waits = not seat.is_due()
            self._engine.wait_for_device()
        except Exception as error:
            self._failure = error
        seconds = time.perf_counter() - started
        for trainer, seat in seats.items():
            trainer.state.window_seconds += seconds
            trainer.state.device_seconds += seconds / len(seats)
            if not seat.waits or self._failure is not None:
                seat.woken.set()

    def _wake_one(self) -> None:
        """After somebody left: if all others wait, one of them has to move them."""
        if self._all_wait():
            for seat in self._seats.values():
                seat.woken.set()
                return


def _for_one(failure: Exception) -> Exception:
    """What each member raises when a step of all fails."""
    if is_out_of_memory(failure) or isinstance(failure, OutOfMemoryError):
        return OutOfMemoryError(str(failure).partition("\n")[0] or type(failure).__name__)
    return RuntimeError(f"a step of the population failed: {type(failure).__name__}: {failure}")
