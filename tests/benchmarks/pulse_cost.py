"""What a rank's pulse costs its training, in one Ray Train worker, with a pulse and without one in turns.

    python -m tests.benchmarks.pulse_cost [--config digits] [--pairs 9] [--seconds 10] [key=value ...]

`steps`: wall time of equal numbers of rounds; on a busy machine it says nothing. `beats`: CPU time of the whole process, with Ray's threads
that carry the beats, while its main thread waits; in percent of the wall time, so it is a bound for what a core loses to it.
"""

import argparse
import json
import statistics
import tempfile
import time

import ray.train
import ray.train.torch

from gan_core import Trainer
from gan_core.overrides import merge, parse, validate
from pipelines import agreement, board, environment
from pipelines.cluster import connected
from pipelines.config import JobConfig, load_named


def worker(told):
    """The pairs' differences in percent: of rounds with a pulse and without, and of the CPU that a waiting process uses."""
    import torch

    from pipelines.pulse import Pulse

    torch.set_num_threads(1)
    trainer = Trainer(validate(told["config"], JobConfig).gan(), device="cpu", evaluates=False)
    pulses = []

    def under(work, *, beats):
        """Wall and CPU seconds of `work`."""
        while pulses:
            pulses.pop().stop()
            time.sleep(2.0)  # its thread is gone
        if beats:
            pulses.append(Pulse(told["board"]))
            pulses[0].follow(lambda: (trainer.images_seen, trainer.d_steps + trainer.g_steps))
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        return time.perf_counter() - wall, time.process_time() - cpu

    def rounds(count):
        for _ in range(count):
            trainer._round()

    under(lambda: rounds(50), beats=True)
    count = int(50 * told["seconds"] / under(lambda: rounds(50), beats=False)[0]) + 1
    steps, beats = [], []
    for pair in range(told["pairs"]):
        order = (True, False) if pair % 2 else (False, True)
        walls = {on: under(lambda: rounds(count), beats=on)[0] for on in order}
        steps.append(100 * (walls[True] / walls[False] - 1))
        shares = {on: cpu / wall for on in order for wall, cpu in [under(lambda: time.sleep(told["seconds"]), beats=on)]}
        beats.append(100 * (shares[True] - shares[False]))
    return {"steps": steps, "beats": beats}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="digits")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("words", nargs="*", metavar="key=value")
    options = parser.parse_args()
    config = validate(merge(load_named(options.config), dict(parse(word) for word in options.words)), JobConfig).model_dump()
    with tempfile.TemporaryDirectory() as folder, connected(dashboard=False, trains=True):
        told = {"config": config, "board": board.new(agreement.facts()), "pairs": options.pairs, "seconds": options.seconds}
        kept = ray.train.RunConfig(storage_path=folder)
        result = ray.train.torch.TorchTrainer(worker, train_loop_config=told, run_config=kept).fit().return_value
    print(json.dumps(result))
    print(environment.describe_hardware()["summary"])
    for name, values in result.items():
        low, median, high = statistics.quantiles(values, n=4)
        print(f"{name}: median {median:+.3f} % of {len(values)} pairs, quartiles {low:+.3f} to {high:+.3f}")


if __name__ == "__main__":
    main()
