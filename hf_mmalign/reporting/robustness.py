"""A robustness evaluation as people read it: description, tables, files and plot."""

import functools
import json
import os
from pathlib import Path

from ..evaluation.metric_names import GREATER_IS_BETTER
from ..evaluation.robustness import measure_robustness
from ..evaluation.scores import RobustnessScores, RobustnessSettings
from .files import write_text
from .plots import plot_report, save_figure
from .tables import markdown_table, metric_label


class RobustnessReport(RobustnessScores):
    """Scores of one model on clean, noisy and incomplete data, with their tables, files and plot."""

    def to_json(self, path: str | os.PathLike) -> Path:
        """Write the report atomically as JSON, which :meth:`from_json` reads back."""
        return write_text(path, json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def from_json(cls, path: str | os.PathLike) -> "RobustnessReport":
        """Read a report written by :meth:`to_json`.

        Raises:
            ValueError: If the file is no such report.
        """
        try:
            return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
        except ValueError as error:
            raise ValueError(f"{path} is not a robustness report of hf-mmalign: {error}.") from error

    def description(self) -> str:
        """How the numbers came about, in a few sentences."""
        s = self.settings
        noise = "U(−a, a)" if s.noise == "uniform" else "N(0, a²)"
        amplitudes = ", ".join(f"{amplitude:g}" for amplitude in s.noise_amplitudes)
        unit = " of their standard deviation" if s.noise_unit == "std" else ""
        gone = "set to 0" if s.missing_mode == "zero" else "masked out of attention"
        seeds = f"Mean ± standard deviation over {len(s.seeds)} seeds" if len(s.seeds) > 1 else f"Seed {s.seeds[0]}"
        parts = [f"{s.num_samples} samples."]
        if s.noise_amplitudes:
            parts.append(f"Noise {noise}, a = {amplitudes}{unit}, on the embeddings of one modality's content tokens.")
        if s.protocol is not None:
            parts.append(_raw_noise(s))
        if s.noisy_copies:
            parts.append("Noise on the raw inputs before features of them were extracted, as their data sets say.")
        if s.snrs:
            ratios = ", ".join(f"{snr:g}" for snr in s.snrs)
            parts.append(f"White noise on raw waveforms and feature sequences, {ratios} dB below the signal.")
        parts.append(f"Missing: the embeddings of one modality {gone} for a share of the samples. {seeds}.")
        return " ".join(parts)

    def table(self) -> str:
        """Markdown: one row per condition, one column per metric."""
        names = self.metric_names
        header = ["test", *(metric_label(name, direction(name, self.settings)) for name in names)]
        rows = [[c.label(), *(str(self.scores[c][name]) for name in names)] for c in self.table_conditions()]
        return markdown_table(header, rows)

    def to_markdown(self) -> str:
        """A heading, the description, the table of all metrics, and the curves of the primary one."""
        settings = self.settings
        parts = [f"# Robustness of {self.model_name or 'the model'}", self.description(), self.table()]
        if settings.missing_ratios:
            label = metric_label(settings.primary_metric)
            parts.append(f"## {label[0].upper()}{label[1:]} by share of samples that miss a modality")
            ratios = self.curve(settings.modalities[0])[0]
            curves = [self.curve(modality)[1] for modality in settings.modalities]
            rows = [[f"{100 * r:g} %", *map(str, scores)] for r, *scores in zip(ratios, *curves, strict=True)]
            parts.append(markdown_table(["missing", *settings.modalities], rows))
        return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"

    def save(self, folder: str | os.PathLike) -> None:
        """Write `robustness.json`, `robustness.md` and `robustness.png` into `folder`, each of them atomically."""
        folder = Path(folder)
        self.to_json(folder / "robustness.json")
        write_text(folder / "robustness.md", self.to_markdown())
        save_figure(plot_report(self), folder / "robustness.png")


def _raw_noise(settings: RobustnessSettings) -> str:
    """In words: `hf_mmalign.perturbation.protocols.NoiseProtocol`."""
    strengths = ", ".join(f"{epsilon:g}" for epsilon in settings.epsilons)
    how = {
        "qmf": "the published protocol of QMF to the letter",
        "clean": "QMF's protocol with pixels clipped and a draw per sample",
    }
    return (
        f"Noise on raw inputs at ε = {strengths} ({how[settings.protocol]}, units of {settings.noise_units}): half of the "
        "samples are disturbed; all: every modality at once, texts by words replaced."
    )


@functools.wraps(measure_robustness)
def evaluate_robustness(*arguments, **keywords) -> RobustnessReport:
    scores = measure_robustness(*arguments, **keywords)
    return RobustnessReport(scores.settings, scores.scores, scores.model_name)


def direction(metric: str, settings: RobustnessSettings) -> bool | None:
    """Whether greater is better; None where that is not known."""
    return settings.greater_is_better if metric == settings.primary_metric else GREATER_IS_BETTER.get(metric)
