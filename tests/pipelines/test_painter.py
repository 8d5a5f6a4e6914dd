"""Who draws: how many workers, and which seeds each of them is given."""

import pytest

from gan_core import portable
from pipelines.cluster import connected
from pipelines.drawing import painter
from tests.support import tiny_config


@pytest.mark.parametrize(
    ("owned", "asked", "found"),
    [
        ({"CPU": 4.0}, (None, None), (4, 0.0)),
        ({"CPU": 4.0}, (3, None), (3, 0.0)),
        ({"CPU": 4.0, "GPU": 2.0}, (None, None), (2, 1.0)),
        ({"CPU": 4.0, "GPU": 2.0}, (None, 0.5), (4, 0.5)),
        ({"CPU": 4.0, "GPU": 2.0}, (4, 0.0), (4, 0.0)),
    ],
)
def test_workers_are_as_many_as_the_cluster_holds_unless_told(monkeypatch, owned, asked, found):
    monkeypatch.setattr("ray.cluster_resources", lambda: owned)
    assert painter.require_workers(*asked) == found


@pytest.mark.parametrize(("asked", "words"), [((5, None), "5 workers of 1 CPU and 0 GPU each"), ((1, 1.0), "1 CPU and 1 GPU each")])
def test_more_workers_than_the_cluster_holds_are_refused(monkeypatch, asked, words):
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 4.0})
    with pytest.raises(ValueError, match=words):
        painter.require_workers(*asked)


def test_tasks_cover_the_seeds_once_and_end_at_whole_blocks():
    assert list(painter.tasks(5, 100, 32)) == [(5, 27), (32, 32), (64, 32), (96, 9)]
    assert list(painter.tasks(0, 32, 17)) == [(0, 32)]
    assert list(painter.tasks(7, 1, 1)) == [(7, 1)]


def test_blocks_hold_all_tasks_in_order_and_few_of_them():
    work = list(painter.tasks(0, 5_000_000, 1024))
    blocks = painter._blocks(work, workers=2)
    assert [tuple(row.values()) for block in blocks for row in block.to_pylist()] == work
    assert len(blocks) == 306 and max(block.num_rows for block in blocks) == 16
    assert [block.num_rows for block in painter._blocks(work[:5], workers=2)] == [1] * 5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray Data's own, of its own settings
def test_a_worker_that_cannot_draw_is_told_as_such_and_not_as_bad_input():
    recipe = painter.Recipe(None, None)
    shape = portable.Shape(resolution=8, channels=1, num_classes=0, points=False)
    about = portable.Description(shape=shape, images_seen=0, content_hash="", gan=tiny_config()).model_dump(mode="json")
    with connected(dashboard=False), pytest.raises(RuntimeError, match="^a worker failed: ") as failure:
        list(painter.pooled(painter.tasks(0, 100, 16), about, {}, recipe, workers=1, gpus=0.0))
    assert "the weights do not fit" in str(failure.value)
