import json

import pytest
import torch

from gan_core import checkpoint
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
