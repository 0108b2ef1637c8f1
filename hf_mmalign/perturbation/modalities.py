"""Noisy and missing modalities, as hooks on a model's modality embeddings.

Every model of the package calls the hooks registered with `register_modality_hook` right after it has embedded its
inputs, so what is here works for all of them and knows none of them.
"""

import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from ..models.modeling_base import ModalityEmbedding, ModalityHook, MultimodalModelMixin
from ..ot.values import values_at_hand

NoiseDistribution = Literal["uniform", "gaussian"]
NoiseUnit = Literal["one", "std"]
MissingMode = Literal["zero", "mask"]


@dataclass(frozen=True)
class ModalityNoise:
    """Adds noise to the content tokens of one modality; class tokens, separators and padding keep their embedding.

    The WMA paper's noise test (section 4.1, "uniform noise of amplitude 3 to the embedding feature") is the default.

    The noise of a sample is a function of (`seed`, its index in the data set, `modality`) alone: it does not change
    with batch size, padding, order or device, and different models of one width see the same noise. Amplitudes scale
    one and the same draw.

    Args:
        modality (`str`): The modality to disturb. A batch that misses it altogether passes unchanged.
        sample_indices (`Sequence[int]`): The index in the data set of each sample of the batch that the hook will
            see.
        amplitude (`float`, *optional*, defaults to 3.0): Bound of the uniform noise U(−amplitude, amplitude), standard
            deviation of the Gaussian one, in units of the embedding.
        seed (`int`, *optional*, defaults to 0): Non-negative.
        distribution (`str`, *optional*, defaults to `"uniform"`): `"uniform"` or `"gaussian"`.
        unit (`float`, *optional*, defaults to 1.0): What an amplitude of 1 is in the embedding, such as its standard
            deviation.

    Raises:
        ValueError: At construction, if the distribution is unknown, or amplitude, unit or seed are negative; in the
            call, if the number of indices is not the batch size.
    """

    modality: str
    sample_indices: Sequence[int]
    amplitude: float = 3.0
    seed: int = 0
    distribution: NoiseDistribution = "uniform"
    unit: float = 1.0

    def __post_init__(self) -> None:
        if self.distribution not in ("uniform", "gaussian"):
            raise ValueError(f"Noise is 'uniform' or 'gaussian', not {self.distribution!r}.")
        if not 0 <= self.amplitude < float("inf"):
            raise ValueError(f"The noise amplitude is a finite number of at least 0, not {self.amplitude}.")
        if not 0 <= self.unit < float("inf"):
            raise ValueError(f"The unit of noise is a finite number of at least 0, not {self.unit}.")
        if self.seed < 0:
            raise ValueError(f"A seed is at least 0, not {self.seed}.")

    def __call__(self, embeddings: dict[str, ModalityEmbedding]) -> dict[str, ModalityEmbedding]:
        if self.modality not in embeddings:
            return embeddings
        embedding = embeddings[self.modality]
        _check_batch(len(self.sample_indices), embedding, "sample_indices")
        tokens, content = embedding.tokens, embedding.content_mask
        lengths = [content.shape[1]] * content.shape[0]
        if values_at_hand(content):  # Elsewhere the host draws for as many as there can be, and the rest is not used.
            lengths = content.sum(dim=1).tolist()
        noise = torch.from_numpy(self._draw(lengths, tokens.shape[-1])).to(tokens.device)
        rank = (content.cumsum(dim=1) - 1).clamp(min=0)  # of a content token among those of its sample
        noisy = tokens.float() + noise.gather(1, rank.unsqueeze(-1).expand_as(tokens))
        tokens = torch.where(content.unsqueeze(-1), noisy.to(tokens.dtype), tokens)
        return {**embeddings, self.modality: replace(embedding, tokens=tokens)}

    def _draw(self, lengths: list[int], width: int) -> np.ndarray:
        """The noise of each sample's content tokens, in their order: `(B, max(lengths) or 1, width)` float32."""
        noise = np.zeros((len(lengths), max(1, *lengths), width), dtype=np.float32)
        stream = zlib.crc32(self.modality.encode())
        for row, index, length in zip(noise, self.sample_indices, lengths, strict=True):
            # Philox is counter-based: a generator anywhere in its key space costs microseconds to set up.
            generator = np.random.Generator(np.random.Philox(key=[self.seed, int(index)], counter=[0, 0, 0, stream]))
            draw = generator.random if self.distribution == "uniform" else generator.standard_normal
            draw(out=row[:length], dtype=np.float32)
        if self.distribution == "uniform":
            noise *= 2
            noise -= 1
        noise *= np.float32(self.amplitude * self.unit)
        return noise


@dataclass(frozen=True)
class MissingModality:
    """Takes one modality away from samples of a batch.

    Args:
        modality (`str`): The modality to take away. A batch that misses it already passes unchanged.
        missing (`torch.BoolTensor` of shape `(B,)`, *optional*): The samples that lose it; all of them by default.
        mode (`str`, *optional*, defaults to `"zero"`): `"zero"` sets the embeddings of content tokens to 0 and leaves
            them attended to, as the WMA paper does (section 4.1, "by setting the embedding features all to 0");
            `"mask"` takes all tokens of the modality out of attention, as for a sample that never had the modality.

    Raises:
        ValueError: At construction, if the mode is unknown; in the call, if `missing` does not have the batch size.
    """

    modality: str
    missing: torch.Tensor | None = None
    mode: MissingMode = "zero"

    def __post_init__(self) -> None:
        if self.mode not in ("zero", "mask"):
            raise ValueError(f"A modality is missing by mode 'zero' or 'mask', not {self.mode!r}.")

    def __call__(self, embeddings: dict[str, ModalityEmbedding]) -> dict[str, ModalityEmbedding]:
        if self.modality not in embeddings:
            return embeddings
        embedding = embeddings[self.modality]
        if self.missing is None:
            missing = torch.ones(len(embedding.tokens), 1, dtype=torch.bool, device=embedding.tokens.device)
        else:
            _check_batch(len(self.missing), embedding, "missing")
            missing = self.missing.to(embedding.tokens.device, torch.bool).unsqueeze(1)
        if self.mode == "zero":
            zeroed = (missing & embedding.content_mask).unsqueeze(-1)
            embedding = replace(embedding, tokens=embedding.tokens.masked_fill(zeroed, 0.0))
        else:
            embedding = replace(
                embedding, mask=embedding.mask & ~missing, content_mask=embedding.content_mask & ~missing
            )
        return {**embeddings, self.modality: embedding}


@contextmanager
def perturbed(model: MultimodalModelMixin, *hooks: ModalityHook) -> Iterator[None]:
    """Register `hooks` on `model` for the length of a `with` block, whatever happens in it."""
    with ExitStack() as stack:
        for hook in hooks:
            stack.callback(model.register_modality_hook(hook).remove)
        yield


def choose_missing(num_samples: int, ratio: float, seed: int, modality: str) -> np.ndarray:
    """Draw which samples miss `modality`: `(num_samples,)` bool with exactly ``round(ratio · num_samples)`` True.

    Each seed ranks the samples once, and the first ones by rank are missing: the choice at a lower ratio is part of
    that at a higher one, so curves over ratios are not blurred by the choice. Modalities are ranked independently.

    Raises:
        ValueError: If the ratio is outside [0, 1].
    """
    if not 0 <= ratio <= 1:
        raise ValueError(f"A missing ratio lies between 0 and 1, not {ratio}.")
    order = np.random.default_rng([seed, zlib.crc32(modality.encode())]).permutation(num_samples)
    missing = np.zeros(num_samples, dtype=bool)
    missing[order[: round(ratio * num_samples)]] = True
    return missing


def _check_batch(given: int, embedding: ModalityEmbedding, name: str) -> None:
    if given != len(embedding.tokens):
        raise ValueError(f"{name} describes {given} samples, but the batch holds {len(embedding.tokens)}.")
