import json
import math

import pytest

from hf_mmalign.evaluation.scores import CLEAN, Condition, RobustnessSettings, Score
from hf_mmalign.reporting.comparison import compare
from hf_mmalign.reporting.robustness import RobustnessReport


def make_report(
    base=0.8, metric="auroc", greater=True, modalities=("text", "image"), name="a model", amplitudes=(3.0,)
):
    ratios = (0.0, 0.5, 1.0)
    settings = RobustnessSettings(
        modalities=modalities,
        noise="uniform",
        noise_amplitudes=amplitudes,
        missing_ratio=0.5,
        missing_ratios=ratios,
        missing_mode="zero",
        seeds=(0, 1),
        num_samples=100,
        primary_metric=metric,
        greater_is_better=greater,
    )
    scores = {CLEAN: {metric: Score((base,)), "other": Score((0.1,))}}
    for place, modality in enumerate(modalities):
        for amplitude in amplitudes:
            value = base - 0.02 * amplitude * (place + 1)
            scores[Condition("noise", modality, amplitude)] = {
                metric: Score((value, value + 0.02)),
                "other": Score((float("nan"), 0.1)),
            }
    for place, modality in enumerate(modalities):
        for ratio in ratios:
            value = base - 0.1 * ratio * (place + 1)
            scores[Condition("missing", modality, ratio)] = {metric: Score((value, value)), "other": Score((0.1, 0.2))}
    return RobustnessReport(settings, scores, model_name=name)


def test_a_score_is_mean_and_sample_standard_deviation():
    assert Score((0.5, 0.7, 0.9)).mean == pytest.approx(0.7)
    assert Score((0.5, 0.7, 0.9)).std == pytest.approx(0.2)
    assert str(Score((0.5, 0.7, 0.9))) == "0.700 ± 0.200"
    assert math.isnan(Score((0.5,)).std)
    assert str(Score((0.5,))) == "0.500"


def test_json_round_trip_keeps_everything_and_is_strict_json(tmp_path):
    report = make_report()
    report.to_json(tmp_path / "r.json")
    text = (tmp_path / "r.json").read_text()
    assert "NaN" not in text
    assert json.loads(text)["settings"]["seeds"] == [0, 1]
    loaded = RobustnessReport.from_json(tmp_path / "r.json")
    assert loaded.settings == report.settings
    assert loaded.model_name == "a model"
    assert loaded.to_dict() == report.to_dict()
    assert loaded.to_markdown() == report.to_markdown()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 99}', '{"format": 1, "settings": {"surprise": 1}}'])
def test_a_file_that_is_no_report_is_named(tmp_path, text):
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(ValueError, match=r"other\.json is not a robustness report"):
        RobustnessReport.from_json(tmp_path / "other.json")


def test_the_table_has_the_conditions_in_order_and_only_the_ratio_asked_for():
    lines = make_report().table().splitlines()
    names = [line.split("|")[1].strip() for line in lines]
    assert names[0] == "test"
    assert names[2:] == ["clean", "text noise 3", "image noise 3", "text missing 50 %", "image missing 50 %"]
    assert "AUROC ↑" in lines[0]
    assert "0.740 ± 0.014" not in lines[2]
    assert "0.750 ± 0.014" in lines[3]
    assert "–" in lines[3], "an undefined value is shown as such"


def test_the_markdown_says_how_the_numbers_came_about():
    text = make_report().to_markdown()
    for part in ("# Robustness of a model", "100 samples", "U(−a, a), a = 3", "set to 0", "over 2 seeds", "| 50 %"):
        assert part in text


def test_save_writes_all_three_files_and_leaves_no_other(tmp_path):
    make_report().save(tmp_path / "new" / "folder")
    files = sorted(path.name for path in (tmp_path / "new" / "folder").iterdir())
    assert files == ["robustness.json", "robustness.md", "robustness.png"]
    first = (tmp_path / "new" / "folder" / "robustness.png").read_bytes()
    assert first.startswith(b"\x89PNG")
    make_report().save(tmp_path / "new" / "folder")
    assert (tmp_path / "new" / "folder" / "robustness.png").read_bytes() == first, "equal reports give equal files"


def test_comparison_is_over_training_seeds():
    comparison = compare(
        {"plain": [make_report(0.70), make_report(0.72)], "WMA": [make_report(0.74), make_report(0.78)]}
    )
    assert comparison.scores["plain"][CLEAN].values == (0.70, 0.72)
    noisy = comparison.scores["plain"][Condition("noise", "text", 3.0)]
    assert noisy.values == pytest.approx((0.65, 0.67)), "a report counts with its mean over noise seeds"
    header, _, _, wma, *rest = comparison.to_markdown().splitlines()
    columns = [cell.strip() for cell in header.strip("|").split("|")]
    assert columns == ["AUROC ↑", "clean", "text noise", "image noise", "text missing", "image missing"]
    assert "0.760 ± 0.028" in wma
    assert "**" not in comparison.to_markdown(), "two seeds mark nothing"
    assert rest[1].startswith("Nothing is bold: a difference to plain is told from chance by 3 shared training seeds")


# Differences to plain, by hand: 0.02, 0.01, 0.03, 0.02, hence 0.02 ± 0.0082 and, with t(3) = 3.182, the interval
# 0.02 ± 0.0130; of the first three 0.02 ± 0.01 and, with t(2) = 4.303, the interval 0.02 ± 0.0248.
STEADY = (0.02, 0.021, 0.019, 0.02)
PLAIN, WMA = (0.78, 0.81, 0.84, 0.71), (0.80, 0.82, 0.87, 0.73)


@pytest.mark.parametrize(("metric", "greater"), [("auroc", True), ("mae", False), ("made-up", None)])
def test_bold_is_what_lies_outside_the_spread_of_paired_differences(metric, greater):
    def cells(seeds, reference):
        sides = {"plain": PLAIN, "WMA": WMA}
        reports = {
            name: [make_report(value, metric, greater) for value in values[:seeds]] for name, values in sides.items()
        }
        text = compare(reports, reference=reference).to_markdown()
        lines = [line.split("|") for line in text.splitlines() if line.startswith("|")]
        return {line[1].strip(): line[2].strip() for line in lines[2:4]}, lines[-1][2].strip()

    assert cells(3, "plain") == ({"plain": "0.810 ± 0.030", "WMA": "0.830 ± 0.036"}, "+0.020 ± 0.010")
    # Each side's own spread is far larger than the difference; the pairs' is not.
    plain, wma = "0.785 ± 0.056", "0.805 ± 0.058"
    scores, difference = cells(4, "plain")
    assert scores == {"plain": plain, "WMA": f"**{wma}**" if greater else wma}
    assert difference == "**+0.020 ± 0.008**", "a difference counts in both directions"
    scores, difference = cells(4, "WMA")
    assert scores == {"plain": f"**{plain}**" if greater is False else plain, "WMA": wma}
    assert difference == "**−0.020 ± 0.008**"


def test_the_rule_of_bold_stands_below_the_table():
    comparison = compare(
        {name: [make_report(value) for value in values] for name, values in {"plain": PLAIN, "WMA": WMA}.items()}
    )
    text = comparison.to_markdown()
    assert "Bold: better than plain, 0 lying outside the 95 % confidence interval (Student's t) of the paired" in text
    assert "over n = 4 training seeds" in text
    assert "a star marks those that hold among all 5 comparisons (Holm)" in text
    # 0.02 ± 0.0082 over four pairs has p = 0.0163, and of five the smallest must lie below 0.01.
    assert "\\*" not in text
    assert (
        "**+0.020 ± 0.001**\\*"
        in compare(
            {
                "plain": [make_report(v) for v in PLAIN],
                "WMA": [make_report(v + d) for v, d in zip(PLAIN, STEADY, strict=True)],
            }
        ).to_markdown()
    )
    assert "| difference to plain, n = 4 |" in text
    entry = next(e for e in comparison.to_dict()["scores"] if e["method"] == "WMA")
    assert entry["difference"]["interval"] == pytest.approx([0.02 - 0.0129923, 0.02 + 0.0129923], abs=1e-6)
    assert entry["difference"]["n"] == 4


def test_only_shared_repetitions_are_paired():
    reports = {"a": [make_report(v) for v in PLAIN], "b": [make_report(v) for v in WMA[:3]]}
    text = compare(reports).to_markdown()
    assert text.splitlines()[-1].split("|")[2].strip() == "–", "reports of different numbers belong to no pairs"
    undefined = compare({"a": [make_report(v) for v in PLAIN], "b": [make_report(v) for v in (*WMA[:3], math.nan)]})
    assert undefined.difference("b", CLEAN).values == pytest.approx((0.02, 0.01, 0.03))
    with pytest.raises(ValueError, match=r"The reference is one of \['a', 'b'\], not 'c'"):
        compare(reports, reference="c")


def test_levels_are_shown_where_they_vary():
    reports = {
        name: [make_report(base, "mae", False, amplitudes=(1.0, 3.0))] for name, base in (("a", 0.8), ("b", 0.9))
    }
    header = compare(reports).to_markdown().splitlines()[0]
    assert "text noise 1" in header
    assert "text missing 50 %" in header


def test_comparison_of_another_metric_and_its_json(tmp_path):
    comparison = compare({"a": [make_report()], "b": [make_report()]}, metric="other")
    assert comparison.greater_is_better is None
    assert "**" not in comparison.to_markdown()
    comparison.to_json(tmp_path / "c.json")
    data = json.loads((tmp_path / "c.json").read_text())
    assert data["metric"] == "other"
    entry = next(e for e in data["scores"] if (e["method"], e["kind"], e["modality"]) == ("a", "noise", "text"))
    assert entry["mean"] is None, "an undefined value stays undefined"
    assert data["scores"][0]["values"] == [0.1]


def test_reports_that_do_not_compare_are_refused():
    with pytest.raises(ValueError, match=r"'b' differs in \['noise_amplitudes'\]"):
        compare({"a": [make_report()], "b": [make_report(amplitudes=(1.0,))]})
    with pytest.raises(ValueError, match="No report for b"):
        compare({"a": [make_report()], "b": []})
    with pytest.raises(ValueError, match="No report for any method"):
        compare({})
    with pytest.raises(ValueError, match=r"\['auroc', 'other'\], not 'bleu'"):
        compare({"a": [make_report()]}, metric="bleu")
