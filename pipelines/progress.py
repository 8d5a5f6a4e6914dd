"""What a person sees while a run goes on: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from typing import Any, Protocol, TextIO

from tqdm import tqdm

LINE_EVERY_SECONDS = 5.0
SHOWN = {"d/loss": "d_loss", "g/loss": "g_loss"}


class Watcher(Protocol):
    """Hears of a run while it goes on."""

    def show(self, images_seen: int, metrics: dict[str, float]) -> None:
        """One report."""
        ...

    def say(self, sentence: str) -> None:
        """Something that a person should know now."""
        ...


class Progress:
    """Shows reports of a run of `total_kimg`, of which a part may be done before it starts, with the metric named `objective`."""

    def __init__(self, total_kimg: float, objective: str, stream: TextIO | None = None) -> None:
        self._shown = SHOWN | {objective: objective.partition("/")[2]}
        self._stream = stream or sys.stderr
        self._total = total_kimg
        self._values: dict[str, float] = {}
        self._started: tuple[float, float] | None = None
        self._last_line = -LINE_EVERY_SECONDS
        self._bar: tqdm[Any] | None = None

    def show(self, images_seen: int, metrics: dict[str, float]) -> None:
        """One report. Losses are means since the report before; the distance is that of the last evaluation."""
        kimg, now = images_seen / 1000, time.monotonic()
        self._values.update({short: metrics[key] for key, short in self._shown.items() if key in metrics})
        if self._started is None:
            self._started = (now, kimg)
        if self._stream.isatty():
            self._draw(kimg, metrics)
        elif now - self._last_line >= LINE_EVERY_SECONDS or kimg >= self._total:
            self._last_line = now
            print(self._line(kimg, metrics, now), file=self._stream, flush=True)

    def say(self, sentence: str) -> None:
        """A line between the reports."""
        tqdm.write(sentence, file=self._stream)

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()

    def _draw(self, kimg: float, metrics: dict[str, float]) -> None:
        if self._bar is None:
            form = "{percentage:3.0f}%|{bar}| {n:.1f}/{total:g} kimg [{elapsed}<{remaining}{postfix}]"
            self._bar = tqdm(total=self._total, initial=kimg, bar_format=form, file=self._stream, dynamic_ncols=True)
        self._bar.set_postfix_str(" ".join(self._facts(metrics)), refresh=False)
        self._bar.update(min(kimg, self._total) - self._bar.n)
        self._bar.refresh()

    def _line(self, kimg: float, metrics: dict[str, float], now: float) -> str:
        assert self._started is not None
        elapsed, covered = now - self._started[0], kimg - self._started[1]
        left = (self._total - kimg) * elapsed / covered if covered > 0 else None
        eta = "" if left is None else f"  eta {tqdm.format_interval(max(0.0, left))}"
        return f"{kimg:8.1f}/{self._total:g} kimg  " + "  ".join(self._facts(metrics)) + eta

    def _facts(self, metrics: dict[str, float]) -> list[str]:
        speed = metrics.get("progress/images_per_second")
        facts = [f"{key} {value:.4g}" for key, value in self._values.items()]
        return facts if speed is None else [f"{speed:.0f} images/s", *facts]
