"""Feature sequences of any width brought to a common one by a convolution over time."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TemporalProjection(nn.Conv1d):
    """One-dimensional convolution over time, without bias, of sequences `(B, T, D)` (DecAlign's Section 3.1).

    Args:
        feature_size (`int`), hidden_size (`int`): Widths before and after.
        kernel_size (`int`): Time steps that an output sees.
        padding (`str`): `"same"` keeps T; `"valid"` gives T − kernel_size + 1 steps, at least 1.
    """

    def __init__(self, feature_size: int, hidden_size: int, kernel_size: int = 1, padding: str = "same"):
        super().__init__(feature_size, hidden_size, kernel_size, padding=padding, bias=False)

    def forward(self, features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Project a padded batch; a sample's valid tokens do not depend on how far it is padded at the end.

        Args:
            features (`torch.Tensor` of shape `(B, T, D)`): Any float dtype. What stands under a mask of 0 is not read,
                except with a kernel of width 1, where it stays in its own step.
            mask (`torch.BoolTensor` of shape `(B, T)`): Valid steps.

        Returns:
            Tokens `(B, T', hidden_size)` and their mask `(B, T')`. With `"valid"`, a token counts where all that its kernel
            sees is valid; a sequence too short for any such token keeps one, at its first step, with zeros for the steps
            it lacks.
        """
        features = features.to(self.weight.dtype)
        (kernel_size,) = self.kernel_size
        if kernel_size == 1:
            return F.linear(features, self.weight.squeeze(-1)), mask
        features = features.masked_fill(~mask.unsqueeze(-1), 0).transpose(1, 2)
        if self.padding == "same":
            return super().forward(features).transpose(1, 2), mask
        missing = max(0, kernel_size - features.shape[2])
        tokens = super().forward(F.pad(features, (0, missing))).transpose(1, 2)
        return tokens, _whole_windows(F.pad(mask, (0, missing)), kernel_size)


def _whole_windows(mask: Tensor, width: int) -> Tensor:
    """`(B, T)` bool to `(B, T − width + 1)`: windows of valid steps, or, without any, that of the first valid step."""
    whole = mask.unfold(1, width, 1).all(dim=-1)
    first = mask.int().argmax(dim=1, keepdim=True).clamp(max=whole.shape[1] - 1)
    short = mask.any(dim=1, keepdim=True) & ~whole.any(dim=1, keepdim=True)
    return whole | short & (torch.arange(whole.shape[1], device=mask.device) == first)
