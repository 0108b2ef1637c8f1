"""How a gate shifts away from a corrupted modality: on average, and for single samples (Figures 4 and 5 of DEF + AAF)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ..evaluation.gate import GateCurve
from .plots import COLOURS, MARKERS, put_title

_NOISES = {
    "white-noise": "white noise, signal-to-noise ratio in dB",
    "gaussian": "Gaussian noise, ε",
    "words-replaced": "words replaced, ε",
}
_GREY = "#5f6368"


def plot_gate(models: Mapping[str, Sequence[GateCurve]], title: str = "") -> Figure:
    """Mean weight of every modality against the noise on one of them: a row of panels per model, a column per corrupted
    modality. Noise grows to the right; the corrupted modality's line is the thick one.

    Args:
        models (`Mapping[str, Sequence[GateCurve]]`): By the model's name the same curves of each. Of several repetitions
            lines are means and bands the standard deviation.
        title (`str`, *optional*): Heading.

    Raises:
        ValueError: If there is no curve.
    """
    columns = max((len(curves) for curves in models.values()), default=0)
    if not columns:
        raise ValueError("There is no curve to plot.")
    figure = Figure(figsize=(1.0 + 4.1 * columns, 1.0 + 3.3 * len(models)), layout="constrained")
    rows = figure.subplots(len(models), columns, sharey=True, squeeze=False)
    for axes_row, (name, curves) in zip(rows, models.items(), strict=True):
        for axes, curve in zip(axes_row, curves, strict=True):
            _draw(axes, curve)
        axes_row[0].set_ylabel("mean gate weight" if len(models) == 1 else f"{name}\nmean gate weight")
    top = max(
        score.mean
        for curves in models.values()
        for curve in curves
        for line in curve.weights.values()
        for score in line
    )
    rows[0, 0].set_ylim(0, min(1.02, 1.25 * top))
    handles, labels = rows[0, 0].get_legend_handles_labels()
    legend = figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    for handle in legend.legend_handles:
        handle.set_linewidth(1.6)
    repeated = max(len(curve.falls[0].values) for curves in models.values() for curve in curves)
    spread = f"mean ± standard deviation of up to {repeated} runs" if repeated > 1 else ""
    put_title(figure, ": ".join(text for text in (title, spread) if text))
    return figure


def _draw(axes: Axes, curve: GateCurve) -> None:
    places = np.arange(len(curve.corruptions) + 1)
    for index, (name, scores) in enumerate(curve.weights.items()):
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
        means, spread = (np.array([getattr(score, key) for score in scores]) for key in ("mean", "std"))
        width = 2.6 if name == curve.modality else 1.3
        axes.plot(places, means, color=colour, marker=marker, markersize=4.5, linewidth=width, label=name)
        if np.isfinite(spread).all():
            axes.fill_between(places, means - spread, means + spread, color=colour, alpha=0.18, linewidth=0)
    axes.set_xticks(places, ["clean", *(f"{corruption.level:g}" for corruption in curve.corruptions)])
    axes.set_xlabel(_NOISES[curve.corruptions[0].noise])
    axes.set_title(f"{curve.modality} corrupted", loc="left", fontsize=11)
    strongest = axes.get_xticklabels()[-1].get_text()
    text = f"at {strongest} its weight falls in {100 * curve.falls[-1].mean:.0f} % of samples"
    axes.text(1, 1.01, text, transform=axes.transAxes, ha="right", va="bottom", fontsize=8, color=_GREY)
    _tidy(axes)


@dataclass(frozen=True)
class GateSample:
    """One sample's weights.

    Args:
        name (`str`): What it is called.
        clean (`dict[str, float]`): Its weights by modality.
        corrupted (`dict[str, dict[str, float]]`): The same by the modality that is corrupted, of those that it has.
    """

    name: str
    clean: dict[str, float]
    corrupted: dict[str, dict[str, float]]


def plot_gate_samples(samples: Sequence[GateSample], noises: Mapping[str, str], title: str = "") -> Figure:
    """Bars of every modality's weight before and after one is corrupted: a column per sample, a row per corrupted modality.

    Args:
        samples (`Sequence[GateSample]`): At least one.
        noises (`Mapping[str, str]`): The modalities that are corrupted, each with the noise in words.
        title (`str`, *optional*): Heading.
    """
    figure = Figure(figsize=(1.2 + 2.7 * len(samples), 1.1 + 2.3 * len(noises)), layout="constrained")
    grid = figure.subplots(len(noises), len(samples), sharex=True, sharey=True, squeeze=False)
    names = list(samples[0].clean)
    places, width = np.arange(len(names)), 0.4
    colours = [COLOURS[place % len(COLOURS)] for place in range(len(names))]
    for axes_row, (modality, noise) in zip(grid, noises.items(), strict=True):
        for axes, sample in zip(axes_row, samples, strict=True):
            axes.bar(places - width / 2, [sample.clean[name] for name in names], width, color=colours, alpha=0.35)
            after = sample.corrupted.get(modality)
            if after is None:
                axes.text(
                    0.5, 0.9, f"has no {modality}", transform=axes.transAxes, ha="center", fontsize=9, color=_GREY
                )
            else:
                axes.bar(places + width / 2, [after[name] for name in names], width, color=colours)
            axes.set_xticks(places, names)
            _tidy(axes)
        axes_row[0].set_ylabel(f"{modality} corrupted\n({noise})\n\ngate weight")
    for axes, sample in zip(grid[0], samples, strict=True):
        axes.set_title(sample.name, loc="left", fontsize=10)
    before, after = Patch(color=_GREY, alpha=0.35, label="clean"), Patch(color=_GREY, label="corrupted")
    figure.legend(handles=[before, after], loc="outside lower center", ncols=2, frameon=False)
    put_title(figure, title)
    return figure


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
