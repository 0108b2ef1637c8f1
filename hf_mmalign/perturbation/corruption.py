"""One modality of every sample corrupted, to see what a model makes of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .protocols import WHITE_NOISE, NoiseProtocol, NoiseUnits, WhiteNoise, check_epsilon


@dataclass(frozen=True)
class Corruption:
    """Noise of one strength on the raw input of one modality, on each sample that has it.

    A waveform or feature sequence takes [`WhiteNoise`]; a picture Gaussian noise and a text replaced words, as the `clean`
    protocol of [`NoiseProtocol`] has them, but on every sample and not on half of them. As there, strengths scale one draw
    for each sample.

    Args:
        modality (`str`): The modality.
        kind (`str` or `int`): Its kind in the config's `modality_kinds`.
        level (`float`): Decibels that the noise lies below the signal; of pictures and texts ε.
        units (`str`, *optional*, defaults to `"mvsa"`): Of ε on pictures.
        statistics (`Mapping[str, FeatureStatistics]`, *optional*): As of [`WhiteNoise`].

    Raises:
        ValueError: For a level that is out of range.
    """

    modality: str
    kind: str | int
    level: float
    units: NoiseUnits = "mvsa"
    statistics: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if self.in_decibels:
            WhiteNoise(self.level)
        else:
            check_epsilon(self.level, "epsilon")

    @property
    def in_decibels(self) -> bool:
        """Whether the level is a signal-to-noise ratio, which is lower where noise is stronger."""
        return self.kind not in ("text", "image")

    @property
    def noise(self) -> str:
        """What is done: `"white-noise"`, `"gaussian"` or `"words-replaced"`."""
        if self.in_decibels:
            return WHITE_NOISE
        return "words-replaced" if self.kind == "text" else "gaussian"

    def disturb(self, row: Mapping[str, Any], index: int, seed: int = 0) -> dict[str, Any] | None:
        """The sample with noise; None where it has not the modality. Arguments as of [`NoiseProtocol.disturb`]."""
        kinds = {self.modality: self.kind}
        if self.in_decibels:
            return WhiteNoise(self.level, statistics=self.statistics).disturb(row, kinds, index, seed)
        return NoiseProtocol("clean", self.units, share=1.0).disturb(row, kinds, self.noise, self.level, index, seed)
