"""The fields of DEF + AAF, which the configs of both fusion models have."""

from dataclasses import dataclass
from typing import Literal


@dataclass(kw_only=True)
class DefAafFields:
    """What `fusion="def_aaf"` is made of (`papers/def_aaf`); without effect on other fusions. Width of the codes is
    `latent_size`, 256 in the paper.

    Args:
        homologous_weight (`float`, defaults to 1.0): α of Eq. 9, on L_H.
        reconstruction_weight (`float`, defaults to 1.0): β of Eq. 9, on L_R.
        reconstruction_lambda (`float`, defaults to 0.5): λ of Eq. 7, the share of intra-modal reconstruction in it.
        contrastive_weight (`float`, defaults to 0.6): τ of Eq. 9, on InfoNCE; 0 leaves it out.
        contrastive_temperature (`float`, defaults to 0.6): τ of Eq. 8.
        alignment_weight (`float`, defaults to 0.5):
            γ, the weight of the Wasserstein alignment of fused vector and codes; 0 leaves it out, critic and all.
        alignment (`str`, defaults to `"uniform"`):
            How the modalities count in it: `"uniform"`, or `"gate"`, by the gate's weights (Proposition 2, remark).
        critic_per_modality (`bool`, defaults to `False`): One critic per modality, and not one for all.
        gradient_penalty (`float`, defaults to 10.0): λ_gp of Eq. 13.
        shared_autoencoder (`bool`, defaults to `True`):
            One encoder and decoder for all modalities, the modality-invariant adapter of Table 3.
        early_fusion (`bool`, defaults to `False`):
            Encode the concatenation of the modalities, and not each (Table 3); then there is nothing to weigh or to align.
        gate (`str`, defaults to `"dynamic"`): `"dynamic"`, weights per sample (Eq. 10), or `"uniform"`, the average.
        gate_floor (`float`, defaults to 0.0): η, the least weight of a modality that is there, at most 1/M (Appendix D).
        gate_entropy_weight (`float`, defaults to 0.0): Weight of the minimum-entropy regulariser (Appendix D).
        gate_entropy_floor (`float`, defaults to 0.5): Its least entropy, as a share of that of equal weights.
        class_dropout (`float`, defaults to 0.5):
            Probability with which a training sample's label is withheld from the autoencoder, which then sees what it will
            see in evaluation: what the class posterior expects, or the embedding of an unknown class.
        class_posterior (`bool`, defaults to `True`):
            Train a classifier beside, whose expectation stands for the class embedding where there is no label.
        class_posterior_weight (`float`, defaults to 1.0): Weight of its cross-entropy.
    """

    homologous_weight: float | int = 1.0
    reconstruction_weight: float | int = 1.0
    reconstruction_lambda: float | int = 0.5
    contrastive_weight: float | int = 0.6
    contrastive_temperature: float | int = 0.6
    alignment_weight: float | int = 0.5
    alignment: Literal["uniform", "gate"] = "uniform"
    critic_per_modality: bool = False
    gradient_penalty: float | int = 10.0
    shared_autoencoder: bool = True
    early_fusion: bool = False
    gate: Literal["dynamic", "uniform"] = "dynamic"
    gate_floor: float | int = 0.0
    gate_entropy_weight: float | int = 0.0
    gate_entropy_floor: float | int = 0.5
    class_dropout: float | int = 0.5
    class_posterior: bool = True
    class_posterior_weight: float | int = 1.0

    def check_def_aaf(self, num_modalities: int) -> None:
        """Raise ValueError for a value out of its range."""
        for name in _WEIGHTS:
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; a weight is at least 0.")
        for name in ("reconstruction_lambda", "gate_entropy_floor", "class_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it lies in [0, 1].")
        if self.contrastive_temperature <= 0:
            raise ValueError(f"contrastive_temperature is {self.contrastive_temperature}; it is above 0.")
        if not 0 <= self.gate_floor <= 1 / num_modalities:
            raise ValueError(
                f"gate_floor is {self.gate_floor}; of {num_modalities} modalities it lies in [0, {1 / num_modalities:.3g}]."
            )

    def def_aaf_weights(self, modalities: list[str]) -> dict[str, float]:
        """Weights of the loss components (Eqs. 7 and 9); the alignment is a mean over the modalities (Proposition 2)."""
        share = self.reconstruction_lambda
        alignment = {f"alignment_{name}": self.alignment_weight / len(modalities) for name in modalities}
        return alignment | {
            "homologous": self.homologous_weight,
            "intra_reconstruction": self.reconstruction_weight * share,
            "cross_reconstruction": self.reconstruction_weight * (1 - share),
            "contrastive": self.contrastive_weight,
            "class_posterior": self.class_posterior_weight,
            "gate_entropy": self.gate_entropy_weight,
        }


_WEIGHTS = (
    *("homologous_weight", "reconstruction_weight", "contrastive_weight", "alignment_weight", "gate_entropy_weight"),
    *("class_posterior_weight", "gradient_penalty"),
)
