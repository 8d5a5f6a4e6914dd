"""Members of a population against the same runs alone."""

import copy
import io
import re
import threading

import pytest
import torch

from gan_core import DivergenceError, Trainer
from gan_core.population import Population, why_not_batched
from gan_core.population.engine import Engine
from gan_core.population.pack import Pack
from gan_core.wishes import Wish
from tests.support import tiny_config, tiny_trainer

# Everything that members may differ in, at once.
DIFFERENT = [
    {"loss__name": "non_saturating"},
    {"loss__name": "f_kl", "step_ratio": "1:2", "seed": 1, "optimizer__generator__lr": 1e-3},
    {"variant": "wgan_gp", "step_ratio": "3:1", "seed": 2, "optimizer__discriminator__beta1": 0.0},
    {"loss__name": "hinge", "step_ratio": "3:2", "seed": 3, "optimizer__discriminator__beta2": 0.9},
    {
        "loss__name": "relativistic",
        "seed": 4,
        "regularizers__r1_gamma": 0.5,
        "regularizers__r2_gamma": 0.2,
        "optimizer__generator__eps": 1e-5,
    },
    {"loss__name": "relativistic_average", "seed": 5, "regularizers__r1_gamma": 1.0, "regularizers__r1_interval": 4},
    {"loss__name": "f_jeffreys", "loss__generator_objective": "alternative", "seed": 6, "optimizer__generator__clip_norm": 0.05},
    {"loss__name": "wasserstein", "regularizers__clip_weight": 0.05, "step_ratio": "2:1", "seed": 7, "ema_halflife_kimg": None},
    {"loss__name": "mmd", "seed": 8, "regularizers__lecam_lambda": 0.3},
]
LONG = {"precision": "float64", "total_kimg": 0.48, "schedule__report_kimg": 0.24, "schedule__evaluate_kimg": 0.48}
LONG |= {"schedule__sample_kimg": 0.48, "schedule__checkpoint_kimg": 0.24}
SHORT = {**LONG, "total_kimg": 0.24}


RUNS_ALONE = {}


def alone(options):
    """The reports and the final state of the run by itself; tests that compare with the same run share it."""
    if repr(options) not in RUNS_ALONE:
        reports, trainer = [], tiny_trainer(**options)
        trainer.run(reports.append)
        RUNS_ALONE[repr(options)] = reports, trainer.state_dict()
    return RUNS_ALONE[repr(options)]


def together(runs):
    """The same of all, as a population."""
    trainers = [tiny_trainer(**options) for options in runs]
    reports = [[] for _ in runs]
    errors = Population(len(runs)).run(trainers, [report.append for report in reports])
    assert errors == [None] * len(runs)
    return [(told, trainer.state_dict()) for told, trainer in zip(reports, trainers, strict=True)]


def assert_same_state(found, expected, path="", rel=1e-9):
    """All of it, tensors to rounding; seconds aside."""
    if isinstance(expected, torch.Tensor):
        assert found.shape == expected.shape, path
        torch.testing.assert_close(found, expected, rtol=rel, atol=1e-11, msg=lambda text: f"{path}: {text}")
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys(), path
        for key in expected.keys() - {"device_seconds", "window_seconds"}:
            assert_same_state(found[key], expected[key], f"{path}.{key}", rel)
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), path
        for place, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
            assert_same_state(ours, theirs, f"{path}[{place}]", rel)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-7, abs=1e-11), path
    else:
        assert found == expected, path


def assert_same_run(found, expected):
    (reports, state), (expected_reports, expected_state) = found, expected
    assert [report.images_seen for report in reports] == [report.images_seen for report in expected_reports]
    for ours, theirs in zip(reports, expected_reports, strict=True):
        assert list(ours.metrics) == list(theirs.metrics)
        timed = {key for key in theirs.metrics if "seconds" in key or "per_second" in key or key == "progress/diagnostics_share"}
        for key in theirs.metrics.keys() - timed:
            assert ours.metrics[key] == pytest.approx(theirs.metrics[key], rel=1e-7, abs=1e-9), key
    assert_same_state(state, expected_state)


def test_members_that_differ_in_everything_equal_the_same_runs_alone():
    runs = [{**LONG, **options} for options in DIFFERENT]
    for found, options in zip(together(runs), runs, strict=True):
        assert_same_run(found, alone(options))


WAYS = {
    "classes, batch norm": {"network__conditional": True, "network__generator__norm": "batch", "regularizers__gp_lambda": 1.0},
    "packed, mirrored, maxout": {"network__packing": 2, "augment__mirror": True, "network__discriminator__maxout_pieces": 3},
    "penalties of differences": {"regularizers__bcr_lambda": 0.5, "regularizers__dragan_lambda": 0.5, "regularizers__bcr_interval": 3},
    "a ratio that is steered": {"step_ratio_schedule__advantage_low": 0.2, "step_ratio_schedule__advantage_high": 0.3}
    | {"step_ratio_schedule__adjust_kimg": 0.048, "step_ratio_schedule__warmup_ratio": "2:1", "step_ratio_schedule__warmup_kimg": 0.064},
    "dcgan": {"network__name": "dcgan", "network__generator": {"width": 4}, "network__discriminator": {"width": 4}},
    "drawn noise": {"network__discriminator__dropout": 0.3},
    "fakes that are reused": {"reuse_fakes": True},
}


@pytest.mark.parametrize("way", WAYS)
def test_members_of_any_architecture_equal_the_same_runs_alone(way):
    three = [{}, {"loss__name": "relativistic", "step_ratio": "2:1"}, {"variant": "f_jeffreys", "step_ratio": "1:2"}]
    runs = [{**SHORT, **WAYS[way], **options, "seed": seed} for seed, options in enumerate(three)]
    for found, options in zip(together(runs), runs, strict=True):
        assert_same_run(found, alone(options))


def test_members_of_one_architecture_are_one_pack_and_others_train_in_turn():
    engine = Engine()
    trainers = [tiny_trainer(**options) for options in DIFFERENT] + [tiny_trainer(batch_size=32)]
    for trainer in trainers:
        engine.add(trainer)
    list(engine.tick(lambda _: True))
    (pack,) = engine.packs
    assert set(pack.trainers) == set(trainers[:8])
    assert engine.alone == trainers[8:]


@pytest.mark.parametrize(
    "options, reason",
    [
        ({}, None),
        ({"network__generator__norm": "batch", "network__conditional": True}, None),
        ({"loss__name": "mmd"}, "the loss mmd compares features"),
        ({"accumulation_steps": 2}, "it accumulates gradients"),
        ({"reuse_fakes": True}, "it reuses fakes"),
        ({"regularizers__lecam_lambda": 0.3}, "lecam keeps running means"),
        ({"augment__name": "ada"}, "the augmentation ada"),
        ({"network__discriminator__dropout": 0.5}, "its layers draw noise"),
        ({"regularizers__spectral_norm": True}, "of the discriminator, its layer .* is a Parametrized"),
        ({"network": {"name": "dcgan"}}, "of the generator, its layer .* is a FromOnePlace, of which there is no batched form"),
    ],
)
def test_a_run_that_cannot_be_batched_says_why(options, reason):
    found = why_not_batched(tiny_trainer(**options))
    assert found is None if reason is None else re.search(reason, found)


def test_adam_in_a_few_kernels_takes_the_steps_that_it_takes_row_by_row():
    states = []
    for at_once in (False, True):
        trainers = [tiny_trainer(**{**SHORT, **options}) for options in DIFFERENT[:8]]
        pack = Pack(trainers, {})
        for side in (pack.g, pack.d):
            side.adam.at_once = at_once
        for _ in range(12):
            pack.tick()
        states.append([trainer.state_dict() for trainer in trainers])
        assert {state["d_steps"] for state in states[-1]} == {12}
    for found, expected in zip(states[1], states[0], strict=True):
        assert_same_state(found, expected)


def test_the_order_of_members_does_not_matter():
    runs = [{**SHORT, **options} for options in DIFFERENT[:6]]
    forwards, backwards = together(runs), together(runs[::-1])[::-1]
    for found, expected in zip(forwards, backwards, strict=True):
        assert_same_run(found, expected)


def test_members_leave_and_come_at_different_times():
    runs = [{**LONG, **options, "total_kimg": 0.08 * (1 + number)} for number, options in enumerate(DIFFERENT[:5])]
    for found, options in zip(together(runs), runs, strict=True):
        assert_same_run(found, alone(options))


def test_a_diverging_member_is_alone_in_that():
    runs = [
        {**SHORT, **DIFFERENT[1]},
        {**SHORT, "loss__name": "wasserstein", "optimizer__discriminator__lr": 1e200},
        {**SHORT, **DIFFERENT[2]},
    ]
    trainers = [tiny_trainer(**options) for options in runs]
    reports = [[] for _ in runs]
    errors = Population(3).run(trainers, [report.append for report in reports])
    assert isinstance(errors[1], DivergenceError)
    assert errors[0] is None and errors[2] is None
    for number in (0, 2):
        assert_same_run((reports[number], trainers[number].state_dict()), alone(runs[number]))


def test_a_member_whose_report_fails_leaves_the_others_at_work():
    def fails(_):
        raise OSError("the disk is full")

    reports = []
    errors = Population(2).run([tiny_trainer(), tiny_trainer(seed=1)], [fails, reports.append])
    assert isinstance(errors[0], OSError)
    assert errors[1] is None
    assert reports[-1].done


def test_a_checkpoint_of_a_member_continues_alone_and_one_of_a_run_alone_continues_in_company():
    runs = [{**LONG, **options} for options in DIFFERENT[:4]]
    halves = [{**options, "total_kimg": 0.24} for options in runs]
    expected = [alone(options)[1] for options in runs]
    for (_, state), options, whole in zip(together(halves), runs, expected, strict=True):
        trainer = tiny_trainer(**options)
        trainer.load_state_dict(state)
        trainer.run(lambda _: None)
        assert_same_state(trainer.state_dict(), whole)
    trainers = [tiny_trainer(**options) for options in runs]
    for trainer, options in zip(trainers, halves, strict=True):
        trainer.load_state_dict(alone(options)[1])
    Population(len(runs)).run(trainers, [lambda _: None] * len(runs))
    for trainer, whole in zip(trainers, expected, strict=True):
        assert_same_state(trainer.state_dict(), whole)


def test_a_state_that_a_member_reports_holds_nothing_of_the_others():
    trainers, sizes = [tiny_trainer(seed=seed) for seed in range(4)], []

    def weigh(report):
        if report.state is not None:
            sizes.append(saved_bytes(report.state()))

    Population(4).run(trainers, [weigh] * 4)
    alone_, by_itself = [], tiny_trainer()
    by_itself.run(lambda report: alone_.append(saved_bytes(report.state())) if report.state is not None else None)
    assert sizes == pytest.approx(alone_ * 4, rel=0.05)


def saved_bytes(state):
    file = io.BytesIO()
    torch.save(state, file)
    return file.tell()


def test_a_member_that_loads_a_state_between_rounds_goes_on_from_it():
    def goes_back(trainer, saved):
        def report(told):
            if told.state is not None and told.images_seen == 160:
                saved.append(copy.deepcopy(told.state()))
            if told.images_seen == 320 and len(saved) == 1:
                saved.append(None)
                trainer.load_state_dict(saved[0])

        return report

    runs = [{**LONG, **options, "schedule__report_kimg": 0.16, "schedule__checkpoint_kimg": 0.16} for options in ({}, {"seed": 1})]
    members = [tiny_trainer(**options) for options in runs]
    by_itself = tiny_trainer(**runs[0])
    by_itself.run(goes_back(by_itself, []))
    assert Population(2).run(members, [goes_back(members[0], []), lambda _: None]) == [None, None]
    assert_same_state(members[0].state_dict(), by_itself.state_dict())
    assert_same_state(members[1].state_dict(), alone(runs[1])[1])


def test_a_wish_stops_the_member_that_has_it():
    looks = []

    def stop():
        looks.append(1)
        return Wish.STOP

    trainers = [tiny_trainer(seed=seed) for seed in range(2)]
    reports = [[], []]
    errors = Population(2).run(trainers, [report.append for report in reports], wishes=[stop, lambda: Wish.NONE])
    assert errors == [None, None]
    assert trainers[0].stopped and not trainers[0].done
    assert not trainers[1].stopped and trainers[1].done
    assert reports[0][-1].interim
    assert looks


def test_trainers_are_built_in_their_seats_one_at_a_time():
    population, expected, found = Population(3), {}, {}
    busy = threading.Lock()

    def life(seed):
        with population.seat():
            assert busy.acquire(blocking=False)
            trainer = Trainer(tiny_config(seed=seed, precision="float64"), device="cpu")
            population.join(trainer)
            busy.release()
            trainer.run(lambda _: None)
            found[seed] = trainer.state_dict()

    threads = [threading.Thread(target=life, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()
    for seed in range(3):
        expected[seed] = alone({"seed": seed, "precision": "float64"})[1]
        assert_same_state(found[seed], expected[seed])


def test_the_shares_of_device_seconds_add_up_to_the_time_of_training():
    trainers = [tiny_trainer(seed=seed) for seed in range(4)]
    Population(4).run(trainers, [lambda _: None] * 4)
    seconds = [trainer.state.device_seconds for trainer in trainers]
    assert min(seconds) > 0.0
    assert seconds == pytest.approx([seconds[0]] * 4)


def test_a_population_needs_members_and_as_many_reports_as_trainers():
    with pytest.raises(ValueError, match="at least one member, given 0"):
        Population(0)
    with pytest.raises(ValueError, match="2 seats for 1 trainers with 2 reports"):
        Population(2).run([tiny_trainer()], [print, print])
