import pytest
import torch

from gan_core.judge import Judge, build_extractor, unmeasurable
from gan_core.metrics import class_agreement
from gan_core.sections import ExtractorConfig
from tests.support import tiny_config, tiny_trainer

CPU = torch.device("cpu")


def test_the_share_and_its_error():
    classes, labels = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 8, 0]), torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 9, 9])
    found = class_agreement.evaluate(classes, labels, extractor="lenet")
    assert found == {"class_agreement_lenet": pytest.approx(0.8), "class_agreement_lenet_error": pytest.approx((0.8 * 0.2 / 10) ** 0.5)}


@pytest.mark.parametrize("count", [0, 3])
def test_labels_must_be_one_for_each_fake(count):
    with pytest.raises(ValueError, match=f"class_agreement: {count} fakes and 4 labels; give one for each"):
        class_agreement.evaluate(torch.zeros(count).long(), torch.zeros(4).long(), extractor="lenet")


def test_digits_agree_with_their_own_labels_and_not_with_shifted_ones():
    dataset = tiny_trainer().parts.dataset
    extractor = build_extractor(ExtractorConfig(name="lenet"), dataset, CPU)
    real = torch.arange(600)
    judge = Judge(dataset, extractor, ("class_agreement",), real=real, held_out=None, split="train", seed=0, conditional=True)
    batch = dataset.batch(torch.arange(600, 1000), CPU, torch.float32, labelled=True)
    right = judge.score([batch.inputs], 400, batch.labels).values["class_agreement_lenet"]
    wrong = judge.score([batch.inputs], 400, (batch.labels + 1) % 10).values["class_agreement_lenet"]
    assert 0.95 < right <= 1.0
    assert wrong < 0.05


def test_a_conditional_run_logs_it_and_another_run_is_refused():
    options = {"evaluation__extractor": {"name": "lenet"}, "evaluation__metrics": ["class_agreement"]}
    reports = []
    tiny_trainer(network__conditional=True, **options).run(reports.append)
    assert 0.0 <= reports[-1].metrics["quality/class_agreement_lenet"] <= 0.5  # ten steps of a tiny network: hardly more than chance
    with pytest.raises(ValueError, match="class_agreement cannot be measured: fakes are not made of classes; set network.conditional=true"):
        tiny_trainer(**options)
    assert tiny_config(evaluation__metrics=["class_agreement"], evaluation__extractor={"name": "lenet"}).evaluation.objective is None


def test_it_is_left_out_where_nobody_asks_for_classes():
    dataset = tiny_trainer().parts.dataset
    extractor = build_extractor(ExtractorConfig(name="lenet"), dataset, CPU)
    assert "class_agreement" in unmeasurable(dataset, extractor, real=500, fake=500, held_out=None)
    assert "class_agreement" not in unmeasurable(dataset, extractor, real=500, fake=500, held_out=None, conditional=True)
