import copy
import json

import pytest
import torch

from gan_core import checkpoint
from tests.gan_core.ranks import R3GAN, STYLEGAN2
from tests.support import tiny_trainer


def test_a_state_comes_back_as_it_was(tmp_path):
    trainer = tiny_trainer()
    trainer.run(lambda report: None)
    checkpoint.save(trainer.state_dict(), tmp_path)
    again = tiny_trainer()
    again.load_state_dict(checkpoint.load(tmp_path))
    for mine, theirs in zip(again.parts.g.parameters, trainer.parts.g.parameters, strict=True):
        assert torch.equal(mine, theirs)
    assert again.state.last_scores == trainer.state.last_scores


def test_a_flipped_bit_and_a_cut_file_are_found(tmp_path):
    checkpoint.save(tiny_trainer().state_dict(), tmp_path)
    content = bytearray((tmp_path / "state.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "state.pt").write_bytes(content)
    with pytest.raises(ValueError, match="is damaged"):
        checkpoint.load(tmp_path)
    (tmp_path / "state.pt").write_bytes(content[:100])
    with pytest.raises(ValueError, match="is damaged"):
        checkpoint.load(tmp_path)


def test_a_folder_without_its_checksum_is_not_complete(tmp_path):
    checkpoint.save(tiny_trainer().state_dict(), tmp_path)
    (tmp_path / "checkpoint.json").unlink()
    with pytest.raises(ValueError, match="holds no complete checkpoint"):
        checkpoint.load(tmp_path)


class Code:
    def __reduce__(self):
        return (print, ("this code ran",))


def test_code_in_a_checkpoint_is_refused_and_does_not_run(tmp_path, capsys):
    checkpoint.save({"images_seen": 0}, tmp_path)
    torch.save({"images_seen": 0, "code": Code()}, tmp_path / "state.pt")
    note = {"sha256": checkpoint._digest(tmp_path / "state.pt"), "images_seen": 0}
    (tmp_path / "checkpoint.json").write_text(json.dumps(note))
    with pytest.raises(ValueError, match="something else than tensors and plain values, and is not loaded: Weights only load failed"):
        checkpoint.load(tmp_path)
    assert "this code ran" not in capsys.readouterr().out


@torch.no_grad()
def contiguous(state):
    if isinstance(state, dict):
        return {key: contiguous(value) for key, value in state.items()}
    if isinstance(state, list):
        return [contiguous(value) for value in state]
    return state.contiguous() if isinstance(state, torch.Tensor) else state


def test_moments_that_were_saved_in_another_layout_train_on_as_they_would_have():
    """The fused Adam reads memory as it lies, so moments of another layout than their weights would be other moments."""
    network = {"network__name": "dcgan", "network__generator__width": 8, "network__discriminator__width": 8, "precision": "float64"}
    trainer = tiny_trainer(**network)
    trainer._round()
    others = [tiny_trainer(**network) for _ in range(2)]
    state = copy.deepcopy(trainer.state_dict())
    others[0].load_state_dict(state)
    others[1].load_state_dict(contiguous(copy.deepcopy(state)))
    for other in others:
        other._round()
    trainer._round()
    for other in others:
        pairs = zip(other.parts.d.parameters, trainer.parts.d.parameters, strict=True)
        assert all(torch.equal(mine, theirs) for mine, theirs in pairs)


NETWORKS = [
    {"network__name": "mlp"},
    {"network__name": "dcgan", "network__generator__width": 8, "network__discriminator__width": 8},
    R3GAN,
    STYLEGAN2,
]


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network["network__name"])
def test_gradients_and_moments_are_laid_out_as_their_weights(network):
    trainer = tiny_trainer(**network)
    trainer._round()
    for player in (trainer.parts.g, trainer.parts.d):
        for parameter in player.parameters:
            moments = player.optimizer.state[parameter]
            tensors = (parameter, parameter.grad, moments["exp_avg"], moments["exp_avg_sq"])
            layouts = {tuple(stride for stride, size in zip(t.stride(), t.shape, strict=True) if size > 1) for t in tensors}
            assert len(layouts) == 1


def test_an_optimizers_clock_keeps_its_type_beside_weights_that_are_single_numbers():
    """As StyleGAN2's noise strengths are."""
    trainer = tiny_trainer(**STYLEGAN2, precision="float64")
    trainer._round()
    before = [moments["step"].dtype for moments in trainer.parts.g.optimizer.state.values()]
    trainer.load_state_dict(copy.deepcopy(trainer.state_dict()))
    assert [moments["step"].dtype for moments in trainer.parts.g.optimizer.state.values()] == before
    assert any(parameter.shape == () for parameter in trainer.parts.g.parameters)
