"""Where a score comes from: all that must be equal before two scores may be compared."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationError

from gan_core.schema import Section, explain

METRICS_VERSION = 2  # raised by every change of the metrics' code that changes a score

Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=0)]


class Provenance(Section):
    """What one score was computed from and by.

    `extractor`, `weights_hash`, `resize` and `dtype` are the extractor's own. `real_count` and `fake_count` are numbers of images, of which
    the real ones are those of `split` (`train`, `held_out`, `test`, ...) in the data of `content_hash`, chosen by `seed`.
    """

    extractor: Text
    weights_hash: Text
    resize: Text
    dtype: Text
    real_count: Count
    fake_count: Count
    split: Text
    seed: int
    content_hash: Text
    metrics_version: int = METRICS_VERSION

    def as_dict(self) -> dict[str, Any]:
        """One entry for each field, of text and numbers: JSON, and MLflow tags."""
        return self.model_dump()

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> "Provenance":
        """The inverse of `as_dict`; numbers may be text, as MLflow returns them.

        Raises:
            ValueError: a field is missing, unknown or of a wrong type. `metrics_version` too must be given: a score that does not say which
                code it is from is not today's.
        """
        if "metrics_version" not in given:
            raise ValueError("provenance.metrics_version is required and was not given")
        try:
            return cls.model_validate(dict(given))
        except ValidationError as error:
            raise ValueError("\n".join(explain(error, cls, "provenance"))) from None


def require_same(a: Provenance, b: Provenance, what: str) -> None:
    """Raise ValueError, naming every field that differs, unless the two scores called `what` may be compared."""
    mine, other = a.as_dict(), b.as_dict()
    different = [f"{name}: {mine[name]} and {other[name]}" for name in mine if mine[name] != other[name]]
    if different:
        listed = "\n  ".join(different)
        raise ValueError(
            f"two values of {what} cannot be compared, because they were computed differently:\n  {listed}\n"
            f"evaluate both with the same settings: raygan evaluate"
        )
