"""Robustness against noise on raw inputs."""

import json

import numpy as np
import pytest
import torch
from transformers import EvalPrediction, ViltImageProcessor

from hf_mmalign import (
    FusionConfig,
    FusionForSequenceClassification,
    MultimodalCollator,
    MultimodalProcessor,
    ViltWmaConfig,
    ViltWmaForSequenceClassification,
    evaluate_robustness,
    load_multimodal_dataset,
)
from hf_mmalign.data.feature_statistics import FeatureStatistics
from hf_mmalign.data.processor import train_tokenizer
from hf_mmalign.evaluation.scores import CLEAN, Condition
from hf_mmalign.perturbation.protocols import NoiseProtocol, WhiteNoise
from hf_mmalign.reporting.robustness import RobustnessReport

KINDS = {"text": "text", "image": "image"}


def weighed(prediction: EvalPrediction) -> dict[str, float]:
    """A number that every logit has its share in, and that rounding moves little, where ranks may jump."""
    logits = prediction.predictions
    weights = np.random.default_rng(0).normal(size=logits.shape)
    return {"weighed": float((weights * logits).sum())}


@pytest.fixture(scope="module")
def parts():
    """A model of pictures and sentences, 24 samples for it, and its collator."""
    data = load_multimodal_dataset("digits-captions")
    tokenizer = train_tokenizer(data["train"]["text"][:100], vocab_size=120)
    processor = MultimodalProcessor(tokenizer, ViltImageProcessor(size={"shortest_edge": 32}, size_divisor=8))
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    ids = {"cls_token_id": tokenizer.cls_token_id, "sep_token_id": tokenizer.sep_token_id}
    torch.manual_seed(0)
    config = ViltWmaConfig(**sizes, **ids, vocab_size=len(tokenizer), image_size=32, patch_size=8, num_labels=2)
    model = ViltWmaForSequenceClassification(config)
    with torch.no_grad():  # logits that noise moves past each other
        for parameter in model.parameters():
            parameter.mul_(10)
    collator = MultimodalCollator(processor, KINDS, "single_label_classification", 2)
    return model, data["test"].select(range(24)), collator


def run(parts, **arguments):
    model, data, collator = parts
    settings = {"protocol": "clean", "epsilons": (0, 10), "seeds": (0, 1), "missing_ratios": (), "progress": False}
    return evaluate_robustness(model, data, data_collator=collator, **settings | {"noise_amplitude": ()} | arguments)


@pytest.mark.parametrize("protocol", ["clean", "qmf"])
def test_every_number_equals_that_of_a_pass_over_disturbed_rows(parts, protocol):
    model, data, collator = parts
    report = run(parts, protocol=protocol, compute_metrics=weighed)
    noise = NoiseProtocol(protocol)
    conditions = [c for c in report.scores if c.kind not in ("clean", "missing")]
    text = ["words-replaced"] if protocol == "qmf" else ["words-replaced", "words-dropped"]
    assert [(c.modality, c.kind, c.level) for c in conditions] == [
        *(("text", kind, 10.0) for kind in text),
        ("image", "gaussian", 10.0),
        ("image", "salt-pepper", 10.0),
        ("all", "gaussian", 10.0),
        ("all", "salt-pepper", 10.0),
    ]
    for condition in conditions:
        kinds = KINDS if condition.modality == "all" else {condition.modality: KINDS[condition.modality]}
        for place, seed in enumerate((0, 1)):
            rows = [noise.disturb(row, kinds, condition.kind, 10.0, i, seed) or row for i, row in enumerate(data)]
            batch = collator(rows)
            del batch["labels"]
            with torch.no_grad():
                logits = model.eval()(**batch).logits.numpy()
            expected = weighed(EvalPrediction(predictions=logits, label_ids=None))["weighed"]
            found = report.scores[condition]["weighed"].values[place]
            assert found == pytest.approx(expected, abs=1e-4), (condition, seed)
            assert found != pytest.approx(report.scores[CLEAN]["weighed"].mean, abs=1e-2)


def test_nothing_depends_on_batch_size_or_loading_processes(parts):
    settings = {"compute_metrics": weighed, "seeds": (0,)}
    one, other = run(parts, batch_size=24, **settings), run(parts, batch_size=7, num_workers=1, **settings)
    for condition, scores in one.scores.items():
        assert other.scores[condition]["weighed"].values == pytest.approx(scores["weighed"].values, abs=1e-4), condition


def test_only_what_the_noise_changes_is_computed_again(parts):
    model = parts[0]
    sizes = []
    handle = model.register_forward_pre_hook(lambda *call: sizes.append(len(call[-1]["input_ids"])), with_kwargs=True)
    run(parts, modalities=["image"], seeds=(0,), batch_size=24)
    handle.remove()
    clean, missing, *noisy = sizes
    assert (clean, missing) == (24, 24)
    assert len(noisy) == 2
    assert all(0 < size < 24 for size in noisy)


def test_table_json_and_plot(parts, tmp_path):
    report = run(parts, epsilons=(5, 10))
    report.save(tmp_path)
    text = (tmp_path / "robustness.md").read_text()
    assert "Noise on raw inputs at ε = 5, 10 (QMF's protocol with pixels clipped and a draw per sample" in text
    assert "| image gaussian ε=5 " in text
    assert "| all salt-pepper ε=10 " in text
    again = RobustnessReport.from_json(tmp_path / "robustness.json")
    assert again.scores.keys() == report.scores.keys()
    assert again.settings == report.settings
    assert (tmp_path / "robustness.png").stat().st_size > 1000


def test_reports_of_before_are_still_read(parts, tmp_path):
    report = run(parts, protocol=None)
    data = report.to_dict()
    for key in ("protocol", "noise_units", "epsilons", "snrs"):
        del data["settings"][key]
    (tmp_path / "robustness.json").write_text(json.dumps(data))
    assert RobustnessReport.from_json(tmp_path / "robustness.json").settings == report.settings
    assert not [condition for condition in report.scores if condition.kind not in ("clean", "missing")]


@pytest.mark.parametrize(("protocol", "normalised"), [(None, False), ("qmf", False), (None, True)])
def test_white_noise_on_feature_sequences(protocol, normalised):
    torch.manual_seed(0)
    sizes = {"audio": 3, "vision": 4}
    model = FusionForSequenceClassification(FusionConfig(feature_sizes=sizes, num_labels=2, hidden_size=8)).eval()
    draw = np.random.default_rng(0)
    rows = [{name: draw.normal(size=(5, size)) for name, size in sizes.items()} | {"label": i % 2} for i in range(12)]
    fitted = {name: FeatureStatistics(torch.full((s,), 0.5), torch.rand(s) + 0.1) for name, s in sizes.items()}
    processor = MultimodalProcessor(feature_statistics=fitted if normalised else None)
    collator = MultimodalCollator(processor, sizes, "single_label_classification", 2)
    report = run((model, rows, collator), snrs=(20, 0), protocol=protocol, compute_metrics=weighed)
    white = [condition for condition in report.scores if condition.kind == "white-noise"]
    assert [(c.modality, c.level) for c in white] == [(name, snr) for name in sizes for snr in (20.0, 0.0)]
    for condition in white:
        for place, seed in enumerate((0, 1)):
            kinds = {condition.modality: 3}
            noise = WhiteNoise(condition.level, statistics=processor.feature_statistics)
            noisy = [noise.disturb(row, kinds, i, seed) for i, row in enumerate(rows)]
            batch = collator(noisy)
            del batch["labels"]
            with torch.no_grad():
                expected = weighed(EvalPrediction(model(**batch).logits.numpy(), None))["weighed"]
            assert report.scores[condition]["weighed"].values[place] == pytest.approx(expected, abs=1e-4)
    assert "| audio white-noise 20 dB " in report.to_markdown()
    assert "20, 0 dB below the signal" in report.to_markdown()
    assert (report.settings.protocol, report.settings.snrs) == (protocol, (20.0, 0.0))


def test_one_modality_has_no_row_of_all(parts):
    report = run(parts, modalities=["text"])
    assert [c.modality for c in report.table_conditions() if c.kind not in ("clean", "missing")] == ["text", "text"]
    assert Condition("words-replaced", "text", 10.0) in report.scores


@pytest.mark.parametrize(("arguments", "message"), [
    ({"protocol": "published"}, "protocol is one of"),
    ({"noise_units": "imagenet"}, "noise_units is one of"),
    ({"epsilons": ()}, r"epsilons is \[\]; a protocol needs one above 0"),
    ({"epsilons": (5, -1)}, "epsilons is -1; expected a finite number"),
    ({"epsilons": (np.nan,)}, "epsilons is nan"),
        ({"snrs": (10,)}, "snrs is for waveforms and feature sequences"),
])  # fmt: skip
def test_bad_arguments(parts, arguments, message):
    with pytest.raises(ValueError, match=message):
        run(parts, **arguments)


def test_rows_that_are_processed_already_are_no_raw_inputs(parts):
    model, data, collator = parts
    batches = [collator([row]) for row in data.select(range(2))]
    with pytest.raises(ValueError, match=r"rows with the columns \['text', 'image'\], before any processing; found"):
        evaluate_robustness(
            model, batches, data_collator=lambda rows: rows[0], protocol="qmf", seeds=(0,), batch_size=1, progress=False
        )
