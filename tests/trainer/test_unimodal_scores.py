"""What the heads on single modalities score in an evaluation."""

import json

import numpy as np
import pytest
from torch import no_grad

from hf_mmalign import MultimodalTrainer, MultimodalTrainingArguments
from hf_mmalign.cli.main import main
from hf_mmalign.evaluation.metrics import compute_metrics_for
from tests.trainer.training import Samples, build_fusion, collate


def evaluated(tmp_path, data, model, **arguments):
    args = MultimodalTrainingArguments(str(tmp_path), per_device_eval_batch_size=6, report_to="none", **arguments)
    compute = compute_metrics_for("single_label_classification", 2)
    return MultimodalTrainer(model, args, eval_dataset=data, data_collator=collate, compute_metrics=compute).evaluate()


def test_each_head_is_scored_over_the_samples_that_have_its_modality(tmp_path):
    data, model = Samples(text=False), build_fusion(unimodal_heads=True, dropout=0.0)
    metrics = evaluated(tmp_path, data, model)
    with no_grad():
        own = model.eval()(**{key: value for key, value in data.batch.items() if key != "labels"}).unimodal_logits
    labels, having = data.batch["labels"].numpy(), data.batch["feature_mask"]["audio"].any(dim=1).numpy()
    assert 0 < having.sum() < len(labels)
    right = {name: logits.argmax(dim=1).numpy() == labels for name, logits in own.items()}
    assert metrics["eval_accuracy_vision"] == pytest.approx(right["vision"].mean())
    assert metrics["eval_accuracy_audio"] == pytest.approx(right["audio"][having].mean())
    assert {"eval_f1_macro_audio", "eval_auroc_vision", "eval_accuracy"} <= metrics.keys()


def test_there_are_none_without_heads_or_for_a_modality_that_no_sample_has(tmp_path):
    data = Samples(text=False)
    assert "eval_accuracy_vision" not in evaluated(tmp_path, data, build_fusion())
    data.batch["feature_mask"]["audio"][:] = 0
    metrics = evaluated(tmp_path, data, build_fusion(unimodal_heads=True))
    assert "eval_accuracy_vision" in metrics
    assert "eval_accuracy_audio" not in metrics


def test_a_batch_that_misses_a_modality_altogether_is_no_hindrance(tmp_path):
    data, model = Samples(text=False), build_fusion(unimodal_heads=True)
    data.batch["feature_mask"]["audio"][:12] = 0  # two batches of six
    assert np.isfinite(evaluated(tmp_path, data, model)["eval_accuracy_audio"])


def test_results_and_reports_of_a_sweep_tell_them_and_the_card_claims_the_fused_scores_only(tmp_path):
    small = [
        "--max_train_samples",
        "32",
        "--max_eval_samples",
        "32",
        "--num_train_epochs",
        "1",
        "--robustness",
        "false",
    ]
    assert main(["sweep", "cal/smoke", "--output_dir", str(tmp_path), "--disable_tqdm", "true", *small]) == 0
    run = tmp_path / "smoke" / "seed=0"
    results = json.loads((run / "results.json").read_text())
    assert {f"accuracy_{name}" for name in ("top", "bottom", "zones")} <= results["test"].keys()
    log = json.loads((run / "trainer_state.json").read_text())["log_history"]
    assert any("eval_accuracy_zones" in entry for entry in log)
    report = (tmp_path / "sweep.md").read_text()
    assert "## Each modality's own head on the test split" in report
    assert f"{results['test']['accuracy_zones']:.3f}" in report.partition("own head")[2]
    assert "accuracy_zones" not in (run / "README.md").read_text()
    assert "accuracy zones" not in (run / "README.md").read_text()
