"""The benchmark of peers measures what it says: rounds, floating-point operations, reads by the host, ratios."""

import io
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from gan_core.networks import dcgan, sngan
from tests.benchmarks import cases
from tests.benchmarks.peers import __main__ as peers
from tests.benchmarks.peers import floor_side, handwritten_side, plain, raygan_side, side, workloads
from tests.benchmarks.peers.workloads import WORKLOADS

FOLDER = Path(peers.__file__).parent


@pytest.fixture
def small(tmp_path):
    """Counts of `rounds` rounds of a side that trains small MLPs of batch 8."""
    work = WORKLOADS["mlp"]._replace(resolution=8, batch=8, generator={"hidden_width": 16}, discriminator={"hidden_width": 16})
    path = cases.make_images(tmp_path, work.channels, work.resolution)
    torch.save(torch.zeros(64, 1, 8, 8, dtype=torch.uint8), tmp_path / "images.pt")

    class Done(Exception):
        pass

    def count(module, variant="", rounds=2):
        counted, seen = side.Operations(), []

        def tick(*_):
            seen.append(len(seen))
            if len(seen) == 1:
                counted.__enter__()
            elif len(seen) == 1 + rounds:
                counted.__exit__(None, None, None)
                raise Done

        given = SimpleNamespace(work=work, device=torch.device("cpu"), tick=tick, images=tmp_path / "images.pt")
        given.path, given.cache, given.words = path, tmp_path, []
        with pytest.raises(Done):
            module.train(given, variant)
        return counted

    return work, count


def test_a_round_of_raygan_has_the_products_of_the_bare_floor_and_reads_nothing(small):
    _, count = small
    ours, floor = count(raygan_side), count(floor_side)
    assert ours.flops == floor.flops > 0
    assert ours.reads == floor.reads == 0


def test_the_handwritten_loop_makes_gradients_of_d_in_gs_step_and_saves_a_pass_of_g(small):
    work, count = small
    floor, fresh, reused = (count(*which).flops / 2 for which in ((floor_side,), (handwritten_side, "fresh"), (handwritten_side, "")))
    g, d = workloads.networks(work, "cpu")
    products = [2 * work.batch * sum(weight.numel() for weight in network.parameters() if weight.ndim == 2) for network in (g, d)]
    assert fresh - floor == products[1]
    assert fresh - reused == products[0]
    assert count(raygan_side, "reuse").flops / 2 == floor - products[0] == reused - products[1]


def test_operations_counts_products_and_reads():
    with side.Operations() as counted:
        (torch.ones(4, 8) @ torch.ones(8, 3)).sum().item()
    assert (counted.flops, counted.reads) == (2 * 4 * 8 * 3, 1)


def test_a_turn_is_of_whole_periods_and_lasts_as_ordered(monkeypatch):
    answers = io.StringIO()
    orders = io.StringIO("".join(json.dumps(order) + "\n" for order in ({"seconds": 0.05}, {"count": 3})))
    monkeypatch.setattr("sys.stdin", orders)

    def ended(code):
        raise SystemExit(code)

    monkeypatch.setattr(side.os, "_exit", ended)
    clock = [0.0]
    monkeypatch.setattr(side, "time", SimpleNamespace(perf_counter=lambda: clock[0], process_time=lambda: clock[0] / 2))
    turns = side.Turns(answers, torch.device("cpu"), period=4, threads=torch.get_num_threads())
    with pytest.raises(SystemExit):
        while True:
            clock[0] += 0.01
            torch.ones(2, 2) @ torch.ones(2, 2)
            turns.tick()
    first, turn, counted = map(json.loads, answers.getvalue().splitlines())
    assert first["rounds"] == 1
    assert (turn["rounds"], turn["wall"], turn["cpu"]) == (8, pytest.approx(0.08), pytest.approx(0.04))
    assert (counted["rounds"], counted["flops"], counted["reads"]) == (3, 3 * 16, 0)


@pytest.mark.parametrize("workload", ["dcgan-32", "sngan-32"])
def test_networks_written_out_in_plain_layers_are_the_functions_of_gan_cores(monkeypatch, workload):
    for module, names in ((dcgan, ("spread", "double_to_few")), (sngan, ("convolve_doubled", "convolve_and_halve", "_scaled"))):
        for name in names:
            monkeypatch.setattr(module, name, getattr(module, name))  # so that it is put back
    work = WORKLOADS[workload]._replace(generator={"width": 4}, discriminator={"width": 4}, spectral_norm=False)
    torch.manual_seed(0)
    generator, discriminator = (network.double() for network in workloads.networks(work, "cpu"))
    z = torch.randn(6, work.z_dim, dtype=torch.float64)

    def outputs():
        return [images := generator(z), discriminator(images)]

    quick = outputs()
    plain.write_out()
    written_out = outputs()
    torch.testing.assert_close(written_out, quick, rtol=1e-10, atol=1e-12)
    assert not torch.equal(written_out[0], quick[0]), "other sums round otherwise"


@pytest.mark.parametrize("name", WORKLOADS)
def test_each_workload_is_a_config_of_raygans_and_its_sides_exist(name, tmp_path):
    work = WORKLOADS[name]
    config = workloads.config(work, tmp_path / "images.parquet", tmp_path)
    assert (config.batch_size, config.step_ratio, config.loss.name) == (work.batch, f"{work.d_steps}:1", work.loss)
    for against in work.against:
        assert (FOLDER / f"{against.partition('_')[0]}_side.py").is_file()


def test_a_ratio_is_the_median_over_runs_of_medians_over_turns_and_judged_by_what_was_asked():
    hundred = [[100.0] * 3] * 2
    rates = {"raygan": [[200.0, 100.0, 220.0], [130.0] * 3], "raygan_reuse": [[90.0] * 3] * 2}
    rates |= {"handwritten": hundred, "mimicry": hundred, "lucidrains": hundred}
    counts = {name: {"flops": flops} for name, flops in zip(rates, (4, 3, 3, 5, 8), strict=True)}
    default, reusing, mimicry, lucidrains = peers.rows("mlp", rates, counts)
    assert default[2:] == ["raygan", "100", "165", "1.65 (1.30..2.00)", "2.20 (1.73..2.67)", "1.0: met"]
    assert reusing[2:] == ["raygan_reuse", "100", "90", "0.90 (0.90..0.90)", "0.90 (0.90..0.90)", "1.0: not met"]
    assert mimicry[5:] == ["1.65 (1.30..2.00)", "1.32 (1.04..1.60)", "1.3: met"]
    assert lucidrains[6:] == ["0.82 (0.65..1.00)", "1.3: not met"]


def test_the_environment_of_peers_is_pinned_and_has_raygans_torch():
    pins = [line for line in (FOLDER / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins)
    constraints = (FOLDER.parents[2] / "constraints.txt").read_text().splitlines()
    for package in ("torch", "torchvision", "numpy"):
        pin = next(pin for pin in pins if pin.startswith(f"{package}=="))
        assert pin in constraints
