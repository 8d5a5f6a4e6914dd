"""What a trainer says to whoever runs it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from gan_core.judge import Scores


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
