"""Training a classifier so that one machine gives the same bits each time, whatever the caller's random state, threads and modes."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gan_core import sampling
from gan_core.datatypes import ImageDataset
from gan_core.extractors._extractor import exact, fill
from gan_core.optimizers import Adam

HELD_OUT = 0.1
FEWEST_IMAGES = 20
AT_ONCE = 1000  # images in a forward pass of the test
BATCH_SIZE = 128
IMAGES_SHOWN = 300_000  # repetitions included: 5.6 times MNIST's 54,000; at most LARGEST_EPOCHS times a small data set
LARGEST_EPOCHS = 40
LEARNING_RATE = 2e-3  # of Adam at its peak, after a tenth of the steps, from where it falls to zero in a straight line
WARM_UP = 0.1
SHIFT = 1 / 14  # of the side: each time it is shown, an image is moved by up to 2 of MNIST's 28 pixels each way
RECIPE: dict[str, Any] = {
    "held_out": HELD_OUT,
    "batch_size": BATCH_SIZE,
    "images_shown": IMAGES_SHOWN,
    "largest_epochs": LARGEST_EPOCHS,
    "learning_rate": LEARNING_RATE,
    "warm_up": WARM_UP,
    "shift": SHIFT,
    "optimizer": "adam, cross-entropy",
}


def train(network: nn.Module, dataset: ImageDataset, *, seed: int) -> dict[str, Any]:
    """Set the weights of a `network` on the CPU, which gives features and logits, from the data set's images and labels.

    Returns facts: `test_accuracy` on the held-out share, and the counts of images held out and trained on.
    """
    train_indices, test_indices = sampling.held_out_split(len(dataset), HELD_OUT)
    steps = math.ceil(min(IMAGES_SHOWN, LARGEST_EPOCHS * len(train_indices)) / BATCH_SIZE)
    with _repeatable():
        fill(network, sampling.random_source(seed, "classifier/weights"))
        network.to(memory_format=torch.channels_last).train()  # a quarter faster on a CPU
        optimizer = Adam(network.parameters(), lr=LEARNING_RATE, foreach=False)
        for step, chosen in enumerate(_batches(train_indices, steps, seed)):
            optimizer.param_groups[0]["lr"] = _learning_rate(step, steps)
            images, labels = _batch(dataset, chosen)
            loss = F.cross_entropy(network(_shifted(images, sampling.random_source(seed, "classifier/shift", step)))[1], labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        network.to(memory_format=torch.contiguous_format).eval()
        right = [_right(network, *_batch(dataset, part)) for part in test_indices.split(AT_ONCE)]
    return {"test_accuracy": sum(right) / len(test_indices), "held_out_count": len(test_indices), "train_count": len(train_indices)}


def _learning_rate(step: int, steps: int) -> float:
    return LEARNING_RATE * min((step + 1) / (WARM_UP * steps), (steps - step) / ((1.0 - WARM_UP) * steps), 1.0)


def _batches(indices: Tensor, steps: int, seed: int) -> Iterator[Tensor]:
    """`steps` batches of image numbers, through all of them in a new order each epoch; a batch may end one and begin the next.

    Not sampling.batch_indices, which cuts a batch by rank: one rank trains alone here.
    """
    ahead, epoch = indices[:0], 0
    for _ in range(steps):
        while len(ahead) < BATCH_SIZE:
            order = torch.randperm(len(indices), generator=sampling.random_source(seed, "classifier/epoch", epoch))
            ahead, epoch = torch.cat([ahead, indices[order]]), epoch + 1
        yield ahead[:BATCH_SIZE]
        ahead = ahead[BATCH_SIZE:]


def _batch(dataset: ImageDataset, chosen: Tensor) -> tuple[Tensor, Tensor]:
    batch = dataset.batch(chosen, torch.device("cpu"), torch.float32, labelled=True)
    assert batch.labels is not None
    return batch.inputs.contiguous(memory_format=torch.channels_last), batch.labels


def _shifted(images: Tensor, source: torch.Generator) -> Tensor:
    """Each image moved by its own whole number of pixels, the border repeated outwards."""
    side = images.shape[-1]
    reach = int(side * SHIFT)
    padded = F.pad(images, (reach,) * 4, mode="replicate").permute(0, 2, 3, 1)
    corners = torch.randint(2 * reach + 1, (2, len(images), 1), generator=source)
    rows, columns = corners + torch.arange(side)
    return padded[torch.arange(len(images))[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


@torch.no_grad()
def _right(network: nn.Module, images: Tensor, labels: Tensor) -> int:
    return int((network(images)[1].argmax(1) == labels).sum())


@contextmanager
def _repeatable() -> Iterator[None]:
    """One thread, because sums depend on how they are divided among threads; deterministic algorithms; gradients, even below no_grad."""
    threads = torch.get_num_threads()
    algorithms, warn_only = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    try:
        with torch.inference_mode(False), torch.enable_grad(), exact(torch.device("cpu")):
            yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(algorithms, warn_only=warn_only)
