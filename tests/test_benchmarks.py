"""Benchmarks run and write what they promise; what they measure is no matter of tests."""

import json

import pytest

from benchmarks import translation_step


def test_translation_step_compares_every_fusion_with_the_plain_model(tmp_path, capsys):
    file = tmp_path / "figures.json"
    tiny = ["--device", "cpu", "--batch-size", "4", "--generate-batch-size", "2", "--width", "16", "--layers", "1"]
    tiny += ["--vocabulary", "120", "--words", "4", "--sentences", "60", "--repeats", "2", "--data-steps", "3"]
    translation_step.main([*tiny, "--json", str(file)])
    found = json.loads(file.read_text())
    assert list(found["fusions"]) == ["concat", "auto", "attention"]
    for key in ("train_ratio", "generate_ratio"):
        assert found[key] == min(of[key] for of in found["fusions"].values()) > 0
    assert 0 < found["data_wait_share"] < 1
    # Of the same size: what fusion adds to a wider model is less than that.
    assert all(found["plain"]["parameters"] < of["parameters"] for of in found["fusions"].values())
    said = capsys.readouterr().out
    assert "| attention |" in said
    assert "spent waiting for data" in said
    with pytest.raises(SystemExit):
        translation_step.parse_arguments(["--fusions", "sum"])
