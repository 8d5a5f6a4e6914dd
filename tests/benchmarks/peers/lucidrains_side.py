"""lucidrains' stylegan2_pytorch: its Trainer's step on its own networks, with its defaults.

It imports `aim`, a tracker that it uses only when asked to log: an empty module stands in for it. It asserts that there is a CUDA device
and calls `.cuda(0)` on everything: where there is none, the question is answered with yes, and `.cuda` leaves things where they are.
Pictures and checkpoints, at each 100th step and more, are not made. Its loader of image files gives way to images in memory.
"""

import sys
from types import ModuleType

import torch

from tests.benchmarks.peers.side import batches, pixels


def train(given, _):
    sys.modules["aim"] = ModuleType("aim")
    there_is = torch.cuda.is_available
    if given.device.type == "cpu":
        torch.cuda.is_available = lambda: True
        torch.Tensor.cuda = torch.nn.Module.cuda = lambda self, *_: self
    from stylegan2_pytorch import Trainer

    torch.cuda.is_available = there_is
    trainer = Trainer(base_dir=".", image_size=given.work.resolution, batch_size=given.work.batch)
    trainer.evaluate = trainer.save = lambda *_: None
    images = pixels(given).float().div_(255.0)
    trainer.loader = endless(batches(images, given))
    while True:
        trainer.train()
        given.tick()


def endless(loader):
    while True:
        yield from loader
