"""What somebody outside wants of a run between its scheduled moments."""

from enum import IntEnum


class Wish(IntEnum):
    """The larger one wins where ranks hear different ones."""

    NONE = 0
    CHECKPOINT = 1
    STOP = 2
