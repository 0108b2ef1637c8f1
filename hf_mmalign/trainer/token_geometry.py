"""An instrument: how the modalities' tokens lie to each other, and whether they have collapsed."""

from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.modeling_base import ModalityEmbedding, MultimodalModelMixin
from .arguments import MultimodalTrainingArguments
from .random_state import unchanged_random_state


class TokenGeometry:
    """Measures, every `log_token_geometry` steps, cosines between the content tokens of the step's first micro-batch.

    They are of the tokens where the model has those of all modalities side by side (its `comparable_tokens`), in eval mode
    and without modality dropout. Logged are

    - `cosine_within_<m>`, the mean over pairs of tokens of one modality, of the same sample or of two: near 1, all tokens
      are one, and neither a classifier nor an alignment has anything to work with;
    - `cosine_between_<m>_<n>`, the mean over pairs of a token of each modality in the same sample;
    - `cosine_mismatched_<m>_<n>`, the same over different samples: an alignment that knows what belongs together has it
      below the former.

    Those between are left out for modalities of different widths, and without two samples those that need two. It takes a
    forward pass of the encoder in such a step, and nothing in others; training itself is not changed. Of several processes,
    each measures its own samples and the first one's are logged.

    Args:
        args ([`MultimodalTrainingArguments`]): With `log_token_geometry`.
        model (`Callable`): Gives the model itself, without wrappers.
    """

    def __init__(self, args: MultimodalTrainingArguments, model: Callable[[], MultimodalModelMixin]):
        self.args, self._model, self._last_step = args, model, -1
        self._logged: dict[str, list[Tensor]] = {}

    @torch.no_grad()
    def measure(self, inputs: Mapping[str, Any], global_step: int) -> None:
        """Measure, if it is this step's turn.

        Args:
            inputs (`Mapping[str, Any]`): As the model's `forward` takes them.
            global_step (`int`): Steps that were taken before this one.
        """
        if global_step % self.args.log_token_geometry or global_step == self._last_step:
            return
        self._last_step = global_step
        model = self._model()
        with unchanged_random_state():
            model.eval()
            try:
                embeddings = model.embed_modalities(**{name: one for name, one in inputs.items() if name != "labels"})
                tokens = model.comparable_tokens(embeddings)
            finally:
                model.train()
        for name, value in token_cosines(tokens).items():
            self._logged.setdefault(name, []).append(value)

    def logs(self) -> dict[str, float]:
        """The means since the last call, by log name; empties them."""
        logged, self._logged = self._logged, {}
        return {name: torch.stack(values).mean().item() for name, values in logged.items()}


def token_cosines(tokens: Mapping[str, ModalityEmbedding]) -> dict[str, Tensor]:
    """The means that [`TokenGeometry`] logs, `()` fp32 each, by log name; of pairs without number from sums of tokens.

    Args:
        tokens (`Mapping[str, ModalityEmbedding]`): By modality, `(B, T_m, d_m)` tokens; their content counts.
    """
    # A token that is 0 has no direction; it counts as at a right angle to all.
    units = {
        name: F.normalize(one.tokens.float(), dim=-1).masked_fill(~one.content_mask.unsqueeze(-1), 0)
        for name, one in tokens.items()
    }
    sums = {name: unit.sum(dim=1) for name, unit in units.items()}
    counts = {name: one.content_mask.sum(dim=1).float() for name, one in tokens.items()}
    found = {}
    for name, total in sums.items():
        own = units[name].square().sum()
        pairs = counts[name].sum() ** 2 - counts[name].sum()
        if pairs > 0:
            found[f"cosine_within_{name}"] = (total.sum(dim=0).square().sum() - own) / pairs
    for one, other in combinations(sums, 2):
        if sums[one].shape[-1] != sums[other].shape[-1]:
            continue
        matched, pairs = (sums[one] * sums[other]).sum(dim=1), counts[one] * counts[other]
        if (both := pairs > 0).any():
            found[f"cosine_between_{one}_{other}"] = (matched[both] / pairs[both]).mean()
        apart = counts[one].sum() * counts[other].sum() - pairs.sum()
        if apart > 0:
            whole = sums[one].sum(dim=0) @ sums[other].sum(dim=0)
            found[f"cosine_mismatched_{one}_{other}"] = (whole - matched.sum()) / apart
    return found
