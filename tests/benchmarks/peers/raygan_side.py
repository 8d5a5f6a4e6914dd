"""raygan: gan_core's Trainer, the loop that `raygan train` runs, with statistics and a report of their means each 5,000 images, in a
process that keeps its memory as a worker of `raygan train` does (pipelines/pages.py).

`reuse` has `reuse_fakes=true`.
"""

from gan_core import Trainer
from pipelines import pages
from tests.benchmarks.peers import workloads


class Ticking(Trainer):
    """Tells of each round."""

    tick = None

    def _round(self):
        super()._round()
        self.tick()


def train(given, variant):
    pages.keep()
    words = [*given.words, "reuse_fakes=true"] if variant == "reuse" else given.words
    config = workloads.config(given.work, given.path, given.cache, words)
    trainer = Ticking(config, device=given.device, evaluates=False)
    trainer.tick = given.tick
    trainer.run(lambda report: None)
