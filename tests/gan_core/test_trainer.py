import copy

import numpy as np
import pytest
import torch

from gan_core import DivergenceError, Trainer
from tests.support import tiny_config, tiny_trainer


def run(trainer):
    reports = []
    trainer.run(reports.append)
    return reports


def same(left, right):
    """Whether two state dicts are equal bit for bit, times excepted."""
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left if key != "device_seconds")
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right


@pytest.mark.parametrize("ratio", ["1:1", "3:1", "1:2"])
@pytest.mark.parametrize("network", ["mlp", "dcgan"])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(network, ratio):
    options = {"network__name": network, "step_ratio": ratio, "total_kimg": 0.96, "schedule__checkpoint_kimg": 0.48}
    if network == "mlp":
        options["network__discriminator__dropout"] = 0.5
    whole = tiny_trainer(**options)
    middle, rest = [], []

    def keep_middle(report):
        if report.state and not middle:
            middle.append(copy.deepcopy(report.state()))
        if middle:
            rest.append(report)

    whole.run(keep_middle)
    assert 0 < middle[0]["images_seen"] < 960

    again = tiny_trainer(**options)
    again.load_state_dict(middle[0])
    reports = run(again)
    assert same(again.state_dict(), whole.state_dict())
    seconds = ("progress/device_seconds", "progress/images_per_second", "progress/diagnostics_share")
    for mine, theirs in zip(reports, rest[1:], strict=True):
        assert mine.images_seen == theirs.images_seen
        assert {k: v for k, v in mine.metrics.items() if k not in seconds} == {k: v for k, v in theirs.metrics.items() if k not in seconds}


def test_reports_come_when_the_clock_says_and_hold_what_is_due():
    reports = run(tiny_trainer(total_kimg=0.2, schedule__checkpoint_kimg=0.096, schedule__evaluate_kimg=0.064, schedule__sample_kimg=0.128))
    assert [report.images_seen for report in reports] == [0, 32, 64, 96, 128, 160, 192, 208]
    assert [report.images_seen for report in reports if report.state] == [96, 192, 208]
    assert [report.images_seen for report in reports if report.picture is not None] == [0, 128, 208]
    assert [report.images_seen for report in reports if "quality/kid_pixels" in report.metrics] == [0, 64, 96, 128, 192, 208]
    assert [report.done for report in reports] == [False] * 7 + [True]


def test_every_report_has_the_numbers_of_both_players():
    report = run(tiny_trainer())[1]
    assert {
        "d/loss",
        "g/loss",
        "d/real_logits",
        "d/fake_logits",
        "d/accuracy_real",
        "d/accuracy_fake",
        "d/gradient_norm",
        "g/gradient_norm",
        "progress/images_per_second",
        "progress/d_steps",
        "progress/g_steps",
        "progress/device_seconds",
    } <= report.metrics.keys()


@pytest.mark.parametrize(("ratio", "d_steps", "g_steps"), [("1:1", 10, 10), ("5:1", 10, 2), ("1:2", 10, 20), ("3:2", 12, 8)])
def test_the_budget_counts_real_images_and_the_ratio_divides_the_steps(ratio, d_steps, g_steps):
    trainer = tiny_trainer(step_ratio=ratio)
    run(trainer)
    assert (trainer.state.d_steps, trainer.state.g_steps, trainer.images_seen) == (d_steps, g_steps, d_steps * 16)


def test_a_report_means_over_the_steps_since_the_last_one():
    fine = run(tiny_trainer(schedule__report_kimg=0.016))
    coarse = run(tiny_trainer(schedule__report_kimg=0.08))
    first_five = np.mean([report.metrics["d/loss"] for report in fine[1:6]])
    assert coarse[1].images_seen == 80
    assert coarse[1].metrics["d/loss"] == pytest.approx(first_five, rel=1e-12)


def test_a_finished_run_reports_nothing_more():
    trainer = tiny_trainer()
    run(trainer)
    again = tiny_trainer()
    again.load_state_dict(trainer.state_dict())
    assert run(again) == []


def test_a_larger_budget_continues_a_finished_run():
    short = tiny_trainer()
    run(short)
    longer = tiny_trainer(total_kimg=0.32)
    longer.load_state_dict(short.state_dict())
    assert run(longer)[-1].images_seen == 320


def test_a_state_of_another_config_or_of_other_data_is_refused():
    state = tiny_trainer().state_dict()
    with pytest.raises(ValueError, match=r"another config; differing keys:\n  loss.name: non_saturating -> minimax\n  seed: 0 -> 1"):
        tiny_trainer(seed=1, loss__name="minimax").load_state_dict(state)
    with pytest.raises(ValueError, match="other data: content hash"):
        tiny_trainer().load_state_dict({**state, "content_hash": "0" * 64})


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_loss_that_is_not_finite_stops_the_run_and_names_step_value_and_checkpoint(bad):
    trainer = tiny_trainer(total_kimg=0.48, schedule__report_kimg=0.08)
    reports = []

    def poison(report):
        reports.append(report)
        if report.images_seen == 160:
            trainer.parts.d.parameters[0].data.fill_(bad)

    with pytest.raises(DivergenceError) as caught:
        trainer.run(poison)
    message = str(caught.value)
    assert message.startswith("d/")
    assert "at its step 11;" in message
    assert "the last good checkpoint is at images_seen 160" in message
    assert reports[-1].images_seen == 160


def test_the_first_bad_value_is_named_whichever_player_it_is_of():
    trainer = tiny_trainer(total_kimg=0.48, schedule__report_kimg=0.08)
    step = trainer._round

    def poisoned():
        step()
        if trainer.state.g_steps == 12:  # the generator's next step is the first to see it: D's fakes of step 13 come before
            trainer.parts.g.parameters[0].data.fill_(torch.nan)

    trainer._round = poisoned
    with pytest.raises(DivergenceError, match="d/loss is nan at its step 13;"):
        trainer.run(lambda report: None)


def test_weights_that_are_not_finite_are_never_saved():
    trainer = tiny_trainer(total_kimg=0.48)
    step, saved = trainer._round, []

    def poisoned():
        step()
        if trainer.images_seen == 320:  # the last step before a checkpoint: no loss has seen it
            trainer.parts.d.parameters[0].data.fill_(torch.inf)

    trainer._round = poisoned
    with pytest.raises(DivergenceError, match="weights of the discriminator are not finite; .* images_seen 160"):
        trainer.run(lambda report: saved.append(report.images_seen) if report.state else None)
    assert saved == [160]


def test_the_best_checkpoint_is_the_one_with_the_smallest_distance():
    reports = run(tiny_trainer(total_kimg=0.64, optimizer__generator__lr=1e-2))
    scores = [(report.metrics["quality/kid_pixels"], report.is_best) for report in reports if report.state]
    best = float("inf")
    for score, is_best in scores:
        assert is_best == (score <= best)
        best = min(best, score)
    assert len(scores) == 4


def test_conditional_pictures_have_a_column_for_each_class():
    trainer = tiny_trainer(network__conditional=True, schedule__sample_count=20)
    assert run(trainer)[0].picture.shape == (2 * 50 + 2, 10 * 50 + 2, 3)


def test_two_dimensional_points_are_drawn_as_a_plot():
    picture = run(tiny_trainer(data__name="ring2d", data__count=1000, network__name="mlp", network__generator__output="linear"))[0].picture
    assert picture.shape == (512, 512, 3)
    blue = (picture == (66, 133, 244)).all(-1)
    orange = (picture == (230, 100, 20)).all(-1)
    assert blue.sum() > 20
    assert orange.sum() > 5


def test_conditional_training_needs_labels(tmp_path):
    from tests.support import png, write_parquet

    path = str(write_parquet(tmp_path / "a.parquet", [png((8, 8))] * 4))
    with pytest.raises(ValueError, match="network.conditional: the data set .* has no labels"):
        Trainer(tiny_config(data__name="parquet", data__path=path, network__conditional=True))


def test_training_does_not_touch_the_random_state_of_the_program():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    run(tiny_trainer(network__discriminator__dropout=0.5))
    assert torch.equal(before, torch.get_rng_state())


def test_the_distance_to_the_data_falls():
    wide = {"network__generator__hidden_width": 128, "network__discriminator__hidden_width": 128, "batch_size": 64}
    reports = run(tiny_trainer(total_kimg=32, schedule__evaluate_kimg=32, schedule__report_kimg=8, schedule__checkpoint_kimg=32, **wide))
    assert reports[-1].metrics["quality/kid_pixels"] < 0.5 * reports[0].metrics["quality/kid_pixels"]


def test_perturbed_settings_hold_from_here_on_with_the_weights_and_moments_of_the_state():
    """Population based training: another run's state, own learning rate, penalty weight and ratio."""
    donor = tiny_trainer(total_kimg=0.16)
    donor.run([].append)
    state = donor.state_dict()
    own = {"optimizer__generator__lr": 5e-5, "regularizers__r1_gamma": 2.0, "step_ratio": "2:1", "total_kimg": 0.32}
    heir = tiny_trainer(**own)
    with pytest.raises(ValueError, match=r"optimizer\.generator\.lr"):
        heir.load_state_dict(state)
    heir.load_state_dict(state, perturbed=["optimizer.generator.lr", "regularizers.r1_gamma", "step_ratio"])
    mine = heir.state_dict()
    for key in ("generator", "discriminator", "g_ema"):
        assert same(mine[key], state[key]), key
    for key in ("generator_optimizer", "discriminator_optimizer"):
        assert same(mine[key]["state"], state[key]["state"]), key
    assert mine["generator_optimizer"]["param_groups"][0]["lr"] == 5e-5
    assert mine["discriminator_optimizer"]["param_groups"][0]["lr"] == state["discriminator_optimizer"]["param_groups"][0]["lr"]
    assert (heir.state.ratio.current(heir.images_seen).d, heir.images_seen) == (2, 160)
    reports = []
    heir.run(reports.append)
    assert reports[-1].metrics["d/penalty/r1"] > 0.0
    assert (heir.images_seen, heir.state.g_steps) == (320, 10 + 5)
