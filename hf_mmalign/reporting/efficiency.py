"""What several models cost, as people read it."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..evaluation.efficiency import ModelEfficiency
from .files import write_text
from .tables import markdown_table

# What is compared with the reference, by its column.
_RATIOS = {
    "parameters": "parameters",
    "flops": "FLOPs",
    "latency_ms_median": "latency",
    "seconds_per_epoch": "epoch",
    "peak_memory_mib": "memory",
}


@dataclass(frozen=True)
class EfficiencyReport:
    """The cost of several models, measured in one run.

    Args:
        models (`dict[str, ModelEfficiency]`): By name.
        reference (`str`): The model that ratios refer to.
        machine (`dict[str, Any]`): `cpu`, `threads`, `torch`, `device`, and `gpu` where that is one.
        settings (`dict[str, Any]`): `inputs`, `samples`, `batch_size`, `train_samples`, `train_steps`, and `memory`, which
            says what was measured.
    """

    models: dict[str, ModelEfficiency]
    reference: str
    machine: dict[str, Any]
    settings: dict[str, Any]

    def ratios(self, name: str) -> dict[str, float | None]:
        """A model's figures divided by the reference's; None where one of them is missing."""
        own, other = asdict(self.models[name]), asdict(self.models[self.reference])
        return {key: own[key] / other[key] if own[key] is not None and other[key] else None for key in _RATIOS}

    def to_dict(self) -> dict[str, Any]:
        """Plain types only; each model's entry has its `ratios`."""
        models = {name: asdict(model) | {"ratios": self.ratios(name)} for name, model in self.models.items()}
        head = {"reference": self.reference, "machine": self.machine, "settings": self.settings}
        return {"models": models} | head

    def to_json(self, path: str | os.PathLike) -> Path:
        """Write the report atomically as JSON."""
        return write_text(path, json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n")

    def save(self, path: str | os.PathLike) -> Path:
        """Write the report atomically as Markdown."""
        return write_text(path, self.to_markdown())

    def table(self) -> str:
        """Markdown: one row per model."""
        header = [
            "model",
            "parameters, M",
            "trained, M",
            "FLOPs, G",
            "s / epoch",
            "latency, ms",
            "p95, ms",
            "peak memory, MiB",
        ]
        rows = [
            [
                name,
                _digits(model.parameters / 1e6),
                _digits(model.trainable_parameters / 1e6),
                _digits(model.flops / 1e9),
                _digits(model.seconds_per_epoch),
                _digits(model.latency_ms_median),
                _digits(model.latency_ms_p95),
                "–" if model.peak_memory_mib is None else f"{model.peak_memory_mib:.0f}",
            ]
            for name, model in self.models.items()
        ]
        return markdown_table(header, rows)

    def ratio_table(self) -> str:
        """Markdown: each model's figures divided by the reference's."""
        rows = [
            [name, *("–" if ratio is None else f"{ratio:.3f}" for ratio in self.ratios(name).values())]
            for name in self.models
        ]
        return markdown_table([f"÷ {self.reference}", *_RATIOS.values()], rows)

    def description(self) -> str:
        """What was measured, and where, in a few sentences."""
        settings, machine = self.settings, self.machine
        inputs = "; ".join(
            f"{name} {', '.join(f'{key} {value}' for key, value in size.items())}"
            for name, size in settings["inputs"].items()
        )
        where = f"{machine['gpu']} beside a {machine['cpu']}" if "gpu" in machine else machine["cpu"]
        threads = f"{machine['threads']} thread{'s' if machine['threads'] > 1 else ''}"
        return (
            f"Random inputs of one size for all: {inputs}. FLOPs are those of one forward pass with a batch of 1, an "
            "addition and a multiplication being two: matrix products, convolutions and attention, no element-wise "
            "operations. Latency is that of such a pass, median and 95th percentile of "
            f"{settings['samples']}. An epoch has {settings['train_samples']} samples in batches of "
            f"{settings['batch_size']}; its seconds are those of a training step (losses, backward, update; mean of "
            f"{settings['train_steps']}) times their number. Peak memory: {settings['memory']}, in which the model was "
            f"built, run and trained. Models took turns. {where}, {threads}, torch {machine['torch']}."
        )

    def to_markdown(self) -> str:
        """A heading, both tables, and the description."""
        parts = ["# Efficiency", self.table(), self.ratio_table(), self.description()]
        return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _digits(value: float) -> str:
    """Three digits, or all that stand before the point."""
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"
