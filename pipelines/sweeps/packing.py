"""Which trials of a sweep train together: packs of one architecture, and those that no program can take, with the reason."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from gan_core import Trainer
from gan_core.population.pack import architecture, why_not_batched
from pipelines.sweeps.config import SweepConfig
from pipelines.sweeps.ledger import Identity
from pipelines.sweeps.trial import Told, job_of

NO_OTHER = "no other trial has its architecture"


class Packing(NamedTuple):
    """`alone` says why trials, by number, are not in a batched program."""

    packs: list[list[Identity]]
    alone: dict[int, str]


def plan(identities: Iterable[Identity], told: Told, *, packed: int, at_once: int) -> Packing:
    """Packs of at most `packed` trials, the largest first; as many as can run at once where there are trials enough. A trial that cannot be
    built is alone, where it fails by itself.
    """
    groups: dict[object, list[Identity]] = {}
    alone: dict[int, str] = {}
    for identity in identities:
        found = _kind(identity, told)
        if isinstance(found, str):
            alone[identity.number] = found
            groups[identity.number] = [identity]
        else:
            groups.setdefault(found, []).append(identity)
    alone |= {group[0].number: NO_OTHER for group in groups.values() if len(group) == 1 and group[0].number not in alone}
    counts = [-(-len(group) // packed) for group in groups.values()]
    sizes = [len(group) for group in groups.values()]
    while sum(counts) < min(at_once, sum(sizes)):
        largest = max(range(len(sizes)), key=lambda place: sizes[place] / counts[place])
        counts[largest] += 1
    packs = [part for group, count in zip(groups.values(), counts, strict=True) for part in _parts(group, count)]
    return Packing(sorted(packs, key=len, reverse=True), alone)


def words(found: Packing) -> str:
    """Packs in words, such as `2 of 8 and 1 of 3 trials`."""
    sizes = [len(pack) for pack in found.packs]
    listed = [f"{sizes.count(size)} of {size}" for size in sorted(set(sizes), reverse=True)]
    return f"{' and '.join(filter(None, (', '.join(listed[:-1]), listed[-1])))} trial{'s' if sizes[-1] > 1 else ''}"


def reasons(found: Packing) -> list[str]:
    """Why trials are not in a batched program, those with one reason together, such as `0, 4 to 9: it reuses fakes`."""
    numbers: dict[str, list[int]] = {}
    for number, reason in found.alone.items():
        numbers.setdefault(reason, []).append(number)
    return [f"{_listed(those)}: {reason}" for reason, those in numbers.items()]


def require_company(identities: Sequence[Identity], told: Told, sweep: SweepConfig) -> None:
    """That two trials at least of the screening, or of the repeats of one with several seeds, can train together.

    Raises:
        ValueError: none can, and why.
    """
    kinds: set[object] = set()
    alone: dict[int, str] = {}
    for identity in identities:
        found = _kind(identity, told)
        if not isinstance(found, str) and (found in kinds or (sweep.repeated > 0 and sweep.seeds > 1)):
            return
        kinds.add(found)
        alone[identity.number] = found if isinstance(found, str) else NO_OTHER
    why = "; ".join(reasons(Packing([], alone)))
    raise ValueError(f"trials.packed: no trials of this sweep can train together ({why}); set trials.packed=1, or take another network")


def _listed(numbers: list[int]) -> str:
    """In order, three and more that follow each other as `4 to 9`."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if not found or number != found[-1][-1] + 1:
            found.append([])
        found[-1].append(number)
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in found)


def _kind(identity: Identity, told: Told) -> tuple[object, ...] | str:
    """The architecture of a trial, which those of its pack share; or, as a text, why it trains by itself. Nothing is compiled for that."""
    try:
        config = job_of(told, identity).gan()
        plain = config.speed.model_copy(update={"compile": False, "cuda_graphs": False})
        trainer = Trainer(config.model_copy(update={"speed": plain}), device="cpu", evaluates=False)
    except ValueError as error:
        return str(error).partition("\n")[0]
    return why_not_batched(trainer) or architecture(trainer)


def _parts(group: Sequence[Identity], count: int) -> list[list[Identity]]:
    """Consecutive parts whose sizes differ by one at most."""
    ends = [len(group) * place // count for place in range(count + 1)]
    return [list(group[first:last]) for first, last in pairwise(ends)]
