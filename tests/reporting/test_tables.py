import pytest

from hf_mmalign.evaluation.scores import format_score
from hf_mmalign.reporting.tables import markdown_table, metric_label


@pytest.mark.parametrize(
    ("mean", "std", "text"),
    [
        (0.74114, None, "0.741"),
        (0.74114, 0.0123, "0.741 ± 0.012"),
        (0.74114, float("nan"), "0.741"),
        (-0.5, 0.1, "-0.500 ± 0.100"),
        (12.3456, 1.0, "12.35 ± 1.00"),
        (123.456, None, "123.5"),
        (123456.7, 10.0, "123457 ± 10"),
        (float("nan"), 0.1, "–"),
    ],
)
def test_scores_are_printed_with_sensible_digits(mean, std, text):
    assert format_score(mean, std) == text


def test_metric_labels():
    assert metric_label("auroc", True) == "AUROC ↑"
    assert metric_label("mae", False) == "MAE ↓"
    assert metric_label("f1_macro") == "F1 macro"
    assert metric_label("my_metric") == "my metric"


def test_a_table_is_markdown_and_aligned():
    assert markdown_table(["model", "a|b"], [["plain", "1.00"], ["WMA", "10.00"]]) == (
        "| model |  a\\|b |\n| ----- | ----: |\n| plain |  1.00 |\n| WMA   | 10.00 |\n"
    )


def test_a_ragged_table_is_refused():
    with pytest.raises(ValueError, match="2 columns"):
        markdown_table(["a", "b"], [["1"]])
