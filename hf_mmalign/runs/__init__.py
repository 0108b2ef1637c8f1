"""From a recipe to a folder: train, evaluate, sweep, predict; what the command `hf-mmalign` does, from Python.

>>> from hf_mmalign import runs
>>> run = runs.train("wma/smoke", output_dir="runs/smoke", learning_rate=1e-3)
>>> run.results["test"]["accuracy"], run.report.to_markdown(), run.model

A recipe is a YAML file, the name of one that comes with the package, a dictionary, or keyword arguments alone. Public names
are imported on first use, so ``import hf_mmalign.runs`` costs milliseconds.
"""

import importlib

_PUBLIC = {
    "Recipe": "recipe",
    "RecipeError": "errors",
    "SweepOutcome": "sweeps",
    "TrainedRun": "training",
    "draw_alignment": "pictures",
    "draw_confusion": "pictures",
    "draw_contributions": "pictures",
    "draw_features": "pictures",
    "draw_gate": "gate",
    "draw_heat_map": "pictures",
    "draw_missing": "pictures",
    "draw_modality_gap": "pictures",
    "draw_training": "pictures",
    "draw_word_drop": "word_drop",
    "efficiency": "efficiency_table",
    "evaluate": "evaluation",
    "extract": "extraction",
    "load_recipe": "recipe",
    "predict": "prediction",
    "robustness": "evaluation",
    "sweep": "sweeps",
    "train": "training",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'hf_mmalign.runs' has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_PUBLIC[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
