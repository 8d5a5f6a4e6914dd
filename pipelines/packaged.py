"""The configs that come with raygan, by their names."""

from pathlib import Path

CONFIGS = Path(__file__).parent / "configs"


def packaged() -> list[str]:
    """The names of the configs in pipelines/configs."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))
