"""On the CPU a tape takes the part of CUDA graphs: what is tested is that a step can be replayed, not CUDA."""

import warnings

import pytest
import torch

from gan_core.taking import taking, why_not_recorded
from tests.gan_core.ranks import R3GAN, STYLEGAN2
from tests.gan_core.tape import TapeRecorder
from tests.support import tiny_trainer

DCGAN = {"network__name": "dcgan", "network__generator__width": 8, "network__discriminator__width": 8}
CASES = {
    "mlp": {},
    "dcgan 2:1, conditional": {**DCGAN, "step_ratio": "2:1", "network__conditional": True},
    "relativistic": {"loss__name": "relativistic"},
    "wgan_gp": {"variant": "wgan_gp"},
    "lazy r1 and lecam": {"regularizers__r1_gamma": 1.0, "regularizers__r1_interval": 3, "regularizers__lecam_lambda": 0.3},
    "clipped, accumulated": {"accumulation_steps": 2, "optimizer__generator__clip_norm": 0.01, "regularizers__clip_weight": 0.05},
    "spectral norm": {"regularizers__spectral_norm": True},
    "r3gan": R3GAN,
    "stylegan2, lazy path length": {**STYLEGAN2, "regularizers__path_length_weight": 2.0, "regularizers__path_length_interval": 4},
}


def recorded(options):
    trainer = tiny_trainer(precision="float64", speed__cuda_graphs=True, **options)
    recorder = TapeRecorder()
    trainer.taking = taking(trainer.config, trainer.parts, recorder)
    return trainer, recorder


def weights(trainer):
    return [*trainer.parts.g.network.state_dict().values(), *trainer.parts.d.network.state_dict().values()]


@pytest.mark.parametrize("case", CASES)
def test_replayed_steps_are_the_steps_as_written(case):
    written = tiny_trainer(precision="float64", **CASES[case])
    replayed, recorder = recorded(CASES[case])
    for _ in range(9):
        written._round()
        replayed._round()
    assert len(recorder.tapes) >= 2
    assert replayed.taking.failure == ""
    for mine, theirs in zip(weights(replayed), weights(written), strict=True):
        assert torch.equal(mine, theirs)
    assert replayed.state.history.read(None) == pytest.approx(written.state.history.read(None), rel=1e-12)


def test_each_set_of_lazy_penalties_that_fall_due_together_is_a_record_of_its_own():
    trainer, recorder = recorded(CASES["lazy r1 and lecam"])
    for _ in range(24):
        trainer._round()
    assert len(recorder.tapes) == 3  # d with and without r1, and g


def test_a_step_that_waits_for_its_values_goes_on_as_written_and_says_why():
    trainer, _ = recorded({})
    loss = trainer.parts.game.loss
    waiting = loss._replace(discriminator=lambda real, fake: loss.discriminator(real, fake) * float(real.mean().item() > -1e9))
    trainer.parts = trainer.parts._replace(game=trainer.parts.game._replace(loss=waiting))
    trainer.taking = taking(trainer.config, trainer.parts, TapeRecorder())
    with pytest.warns(UserWarning, match="not recorded: operation not permitted"):
        for _ in range(6):
            trainer._round()
    assert "capturing" in trainer.taking.failure


def test_a_loaded_state_is_trained_on_and_not_the_memory_of_the_record(monkeypatch):
    monkeypatch.setattr("gan_core.trainer.taking", lambda config, parts: taking(config, parts, TapeRecorder()))
    trainer = tiny_trainer(precision="float64", speed__cuda_graphs=True)
    other = tiny_trainer(precision="float64")
    for _ in range(6):
        trainer._round()
    for _ in range(2):
        other._round()
    trainer.load_state_dict(other.state_dict())
    for _ in range(6):
        trainer._round()
        other._round()
    for mine, theirs in zip(weights(trainer), weights(other), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"network__discriminator__dropout": 0.5}, "dropout"),
        ({"augment__name": "diffaugment"}, "augmentations"),
        ({"reuse_fakes": True}, "reuse_fakes"),
    ],
)
def test_what_cannot_be_recorded_says_why(options, reason):
    trainer = tiny_trainer(speed__cuda_graphs=True, **options)
    assert reason in why_not_recorded(trainer.config, trainer.parts, cuda=False)


def test_on_a_cpu_steps_are_taken_as_written_and_a_trainer_knows_why():
    assert "this is cpu" in tiny_trainer(speed__cuda_graphs=True).taking.failure
    with warnings.catch_warnings(action="error"):
        assert tiny_trainer().taking.failure == ""
