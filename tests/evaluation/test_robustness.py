import numpy as np
import pytest
import torch
from transformers import EvalPrediction

from hf_mmalign import evaluate_robustness
from hf_mmalign.evaluation.metrics import compute_metrics_for
from hf_mmalign.evaluation.scores import CLEAN, Condition
from hf_mmalign.perturbation.modalities import MissingModality, ModalityNoise, choose_missing, perturbed

from .tiny_model import TinyData, TinyModel

TASKS = [("single_label_classification", 2), ("single_label_classification", 3), ("multi_label_classification", 3)]
TASKS += [("regression", 1)]


def run(model, data, **arguments):
    arguments = {"seeds": (0, 1), "batch_size": 7, "progress": False} | arguments
    return evaluate_robustness(model, data, data_collator=data.collate, **arguments)


def reference_metrics(model, data, make_hook):
    """Metrics of one real pass over all samples at once with a hook."""
    batch = data.collate(data.rows)
    labels = batch.pop("labels").numpy()
    training = model.training
    model.eval()
    with torch.no_grad(), perturbed(model, *([make_hook()] if make_hook else [])):
        logits = model(**batch).logits.numpy()
    model.train(training)
    config = model.config
    compute = compute_metrics_for(config.problem_type, config.num_labels)
    return compute(EvalPrediction(predictions=logits, label_ids=labels))


@pytest.mark.filterwarnings("ignore:AUROC")
@pytest.mark.parametrize(("problem_type", "num_labels"), TASKS)
def test_every_number_equals_that_of_a_real_pass(problem_type, num_labels):
    """Above all: missing ratios mixed from two passes equal passes in which just those samples miss the modality."""
    model, data = TinyModel(problem_type, num_labels), TinyData(23, problem_type, num_labels)
    ratios = (0.0, 0.3, 0.5, 1.0)
    for mode in ("zero", "mask"):
        report = run(model, data, noise_amplitude=(1.0, 3.0), missing_ratios=ratios, missing_mode=mode)
        for name, score in report.scores[CLEAN].items():
            assert score.values == pytest.approx((reference_metrics(model, data, None)[name],), abs=1e-6)
        for condition, scores in report.scores.items():
            if condition.kind == "clean":
                continue
            for place, seed in enumerate((0, 1)):
                if condition.kind == "noise":
                    hook = ModalityNoise(condition.modality, range(23), condition.level, seed)
                else:
                    missing = torch.from_numpy(choose_missing(23, condition.level, seed, condition.modality))
                    hook = MissingModality(condition.modality, missing, mode)
                expected = reference_metrics(model, data, lambda hook=hook: hook)
                for name, score in scores.items():
                    assert score.values[place] == pytest.approx(expected[name], abs=1e-6), (condition, seed, name)
        kinds = [(c.kind, c.modality, c.level) for c in report.scores]
        assert kinds[:5] == [
            ("clean", None, None),
            ("noise", "vision", 1.0),
            ("noise", "vision", 3.0),
            ("noise", "audio", 1.0),
            ("noise", "audio", 3.0),
        ]
        assert [level for _, modality, level in kinds[5:] if modality == "audio"] == list(ratios)


@pytest.mark.filterwarnings("ignore:AUROC")
@pytest.mark.parametrize(("problem_type", "num_labels"), TASKS)
def test_a_model_that_has_seen_no_labels(problem_type, num_labels):
    model, data = TinyModel(problem_type, num_labels), TinyData(23, problem_type, num_labels)
    expected = run(model, data)
    model.config.problem_type = None
    report = run(model, data)
    assert report.settings == expected.settings
    assert report.scores[CLEAN].keys() == expected.scores[CLEAN].keys()
    assert model.config.problem_type is None


def test_nothing_depends_on_batch_size_padding_or_workers():
    model, data = TinyModel("regression", 1), TinyData(23, "regression", 1)
    one = run(model, data, batch_size=23)
    padded = evaluate_robustness(
        model,
        data,
        data_collator=lambda rows: data.collate(rows, extra_padding=4),
        seeds=(0, 1),
        batch_size=3,
        progress=False,
    )
    for condition, scores in one.scores.items():
        for name, score in scores.items():
            assert padded.scores[condition][name].values == pytest.approx(score.values, abs=1e-5)


def test_ratio_zero_is_clean_and_ratio_one_does_not_depend_on_the_seed():
    report = run(TinyModel(), TinyData(), missing_ratios=(0.0, 1.0))
    for modality in ("vision", "audio"):
        clean, gone = (report.scores[Condition("missing", modality, ratio)]["auroc"] for ratio in (0.0, 1.0))
        assert set(clean.values) == {report.scores[CLEAN]["auroc"].mean}
        assert gone.std == 0.0


def test_each_batch_is_collated_once_and_labels_stay_out_of_the_model():
    model, data = TinyModel(), TinyData(20)
    run(model, data, batch_size=10, seeds=(0, 1, 2), missing_ratios=tuple(np.linspace(0, 1, 21)))
    assert data.collations == 2
    # Per batch: clean, 2 modalities × 3 seeds of noise, 2 modalities missing; 21 ratios add nothing.
    assert model.forwards == 2 * (1 + 2 * 3 + 2)
    assert "labels" not in model.seen_keys


def test_the_model_comes_back_as_it_was():
    model, data = TinyModel(), TinyData()
    model.train()
    model.hidden.eval()  # a part that its user froze
    run(model, data)
    assert model.training
    assert model.dropout.training
    assert not model.hidden.training
    assert not model.__dict__.get("_modality_hooks")
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_the_model_comes_back_as_it_was_after_an_exception():
    model, data = TinyModel(), TinyData()
    model.train()

    def fail(embeddings):
        if model.forwards > 3:
            raise RuntimeError("broken")
        return embeddings

    handle = model.register_modality_hook(fail)
    with pytest.raises(RuntimeError, match="broken"):
        run(model, data)
    assert model.training
    assert list(model._modality_hooks) == [handle.id]


def test_hooks_of_the_user_stay_active():
    model, data = TinyModel(), TinyData()
    without_vision = run(model, data, modalities=["audio"])
    handle = model.register_modality_hook(MissingModality("vision"))
    report = run(model, data, modalities=["audio"])
    handle.remove()
    assert report.scores[CLEAN]["auroc"] != without_vision.scores[CLEAN]["auroc"]
    assert report.settings.modalities == ("audio",)


def test_samples_without_a_label_are_not_scored():
    model, data = TinyModel(), TinyData(24)
    for row in data.rows[::4]:
        row["labels"] = torch.tensor(-100)
    report = run(model, data)
    assert report.settings.num_samples == 24
    labelled = TinyData(24)
    labelled.rows = [row for row in data.rows if row["labels"] >= 0]
    expected = reference_metrics(model, labelled, None)
    assert report.scores[CLEAN]["accuracy"].mean == pytest.approx(expected["accuracy"])


def test_half_precision_models_take_single_precision_batches():
    model, data = TinyModel("regression", 1).to(torch.bfloat16), TinyData(10, "regression", 1)
    report = run(model, data)
    exact = run(TinyModel("regression", 1), data)
    assert report.scores[CLEAN]["mae"].mean == pytest.approx(exact.scores[CLEAN]["mae"].mean, rel=0.05)


def test_own_metrics_and_their_primary_one():
    def compute(prediction):
        return {
            "share": float((prediction.predictions.argmax(-1) == 1).mean()),
            "size": float(len(prediction.label_ids)),
        }

    report = run(TinyModel(), TinyData(), compute_metrics=compute)
    assert report.metric_names == ["share", "size"]
    assert (report.settings.primary_metric, report.settings.greater_is_better) == ("share", None)
    assert run(TinyModel(), TinyData(), compute_metrics=compute, primary="size").settings.primary_metric == "size"
    assert run(TinyModel(), TinyData(), primary="accuracy").settings.greater_is_better is True


def test_parts_can_be_left_out():
    report = run(TinyModel(), TinyData(), noise_amplitude=(), missing_ratios=())
    assert [condition.kind for condition in report.scores] == ["clean", "missing", "missing"]


def test_a_real_dataset_and_the_default_curve():
    from datasets import Dataset

    data = TinyData(9)
    rows = Dataset.from_list([{name: values.tolist() for name, values in row.items()} for row in data.rows])

    def collate(rows):
        return data.collate([{name: torch.tensor(values) for name, values in row.items()} for row in rows])

    report = evaluate_robustness(TinyModel(), rows, data_collator=collate, seeds=[0], progress=False)
    assert report.settings.missing_ratios == tuple(step / 10 for step in range(11))
    for name, score in run(TinyModel(), data).scores[CLEAN].items():
        assert report.scores[CLEAN][name].values == pytest.approx(score.values), name


def test_wrong_arguments_are_named():
    model, data = TinyModel(), TinyData(5)
    with pytest.raises(ValueError, match=r"\['vision', 'audio'\].*'smell'"):
        run(model, data, modalities=["smell"])
    with pytest.raises(ValueError, match="seeds"):
        run(model, data, seeds=())
    with pytest.raises(ValueError, match="seeds"):
        run(model, data, seeds=(1, 1))
    with pytest.raises(ValueError, match="missing_ratio"):
        run(model, data, missing_ratio=50)
    with pytest.raises(ValueError, match="'uniform' or 'gaussian'"):
        run(model, data, noise="salt")
    with pytest.raises(ValueError, match="'zero' or 'mask'"):
        run(model, data, missing_mode="drop")
    with pytest.raises(ValueError, match="empty"):
        run(model, TinyData(0))
    with pytest.raises(ValueError, match="primary is one of"):
        run(model, data, primary="bleu")
    for row in data.rows:
        del row["labels"]
    with pytest.raises(ValueError, match="no 'labels'"):
        run(model, data)
