"""Which trials of a sweep train together: packs of one architecture, and those that no program can take, with the reason."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from gan_core import Trainer
from gan_core.population.pack import architecture, why_not_batched
from pipelines.sweeps.ledger import Identity
from pipelines.sweeps.trial import Told, job_of

NO_OTHER = "no other trial has its architecture"


class Packing(NamedTuple):
    """`alone` says why trials, by number, are not in a batched program."""

    packs: list[list[Identity]]
    alone: dict[int, str]


def plan(identities: Iterable[Identity], told: Told, *, packed: int, at_once: int) -> Packing:
    """Packs of at most `packed` trials, the largest first; as many as can run at once where there are trials enough.

    Raises:
        ValueError: a trial is no valid config.
    """
    groups: dict[object, list[Identity]] = {}
    alone: dict[int, str] = {}
    for identity in identities:
        trainer = Trainer(job_of(told, identity).gan(), device="cpu", evaluates=False)
        if reason := why_not_batched(trainer):
            alone[identity.number] = reason
            groups[identity.number] = [identity]
        else:
            groups.setdefault(architecture(trainer), []).append(identity)
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


def _parts(group: Sequence[Identity], count: int) -> list[list[Identity]]:
    """Consecutive parts whose sizes differ by one at most."""
    ends = [len(group) * place // count for place in range(count + 1)]
    return [list(group[first:last]) for first, last in pairwise(ends)]
