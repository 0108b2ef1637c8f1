"""DEF's losses against their equations, written out sample by sample."""

import math
from itertools import combinations, permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck
from torch.testing import assert_close

from hf_mmalign.losses.discriminative_embedding import (
    contrastive_loss,
    entropy_shortfall,
    homologous_loss,
    reconstruction_losses,
)

NAMES = ("text", "audio", "vision")


def draw(seed: int, batch: int, share: float = 0.7, width: int = 4):
    generator = torch.Generator().manual_seed(seed)
    codes = {name: torch.randn(batch, width, generator=generator, dtype=torch.float64) for name in NAMES}
    present = {name: torch.rand(batch, generator=generator) < share for name in NAMES}
    return codes, present, generator


def apart(left, right) -> float:
    return float(((left - right) ** 2).mean())


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), batch=st.integers(1, 5))
def test_homologous_and_reconstruction_are_the_equations(seed, batch):
    codes, present, generator = draw(seed, batch)
    decoded = {
        goal: {name: torch.randn(batch, 4, generator=generator, dtype=torch.float64) for name in NAMES}
        for goal in NAMES
    }
    homologous, intra, cross = [], [], []
    for i in range(batch):
        has = [name for name in NAMES if present[name][i]]
        if has:
            intra.append(mean([apart(codes[s][i], decoded[s][s][i]) for s in has]))
        if len(has) > 1:
            homologous.append(mean([apart(codes[s][i], codes[t][i]) for s, t in combinations(has, 2)]))
            cross.append(mean([apart(codes[s][i], decoded[s][t][i]) for s, t in permutations(has, 2)]))
    assert float(homologous_loss(codes, present)) == pytest.approx(mean(homologous), abs=1e-12)
    found = reconstruction_losses(codes, decoded, present)
    assert [float(value) for value in found] == pytest.approx([mean(intra), mean(cross)], abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), batch=st.integers(1, 5))
def test_contrast_is_the_equation(seed, batch):
    codes, present, _ = draw(seed, batch)
    terms = []
    for s, t in permutations(NAMES, 2):
        for i in range(batch):
            if present[s][i] and present[t][i]:
                cosines = [
                    float(torch.cosine_similarity(codes[s][i], codes[t][j], dim=0)) / 0.6
                    for j in range(batch)
                    if present[t][j]
                ]
                own = float(torch.cosine_similarity(codes[s][i], codes[t][i], dim=0)) / 0.6
                terms.append(math.log(sum(math.exp(value) for value in cosines)) - own)
    assert float(contrastive_loss(codes, present, 0.6)) == pytest.approx(mean(terms), abs=1e-10)


def test_gradients():
    codes, present, _ = draw(3, 4)
    values = [code.requires_grad_() for code in codes.values()]

    def losses(*codes):
        named = dict(zip(NAMES, codes, strict=True))
        return homologous_loss(named, present), contrastive_loss(named, present, 0.6)

    assert gradcheck(losses, values)


def test_what_a_sample_lacks_changes_nothing():
    codes, present, _ = draw(5, 6)
    other = {name: torch.where(present[name].unsqueeze(1), code, 1e3) for name, code in codes.items()}
    assert_close(homologous_loss(codes, present), homologous_loss(other, present))
    assert_close(contrastive_loss(codes, present, 0.6), contrastive_loss(other, present, 0.6))


def test_entropy_shortfall():
    weights = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.9, 0.1, 0.0]])
    present = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 0, 0], [1, 1, 0]]).bool()
    entropy = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1)) / math.log(2)
    expected = (0 + 0.5 + (0.5 - entropy)) / 3  # the third sample has one modality only
    assert float(entropy_shortfall(weights, present, 0.5)) == pytest.approx(expected, abs=1e-6)
    weights.requires_grad_()
    entropy_shortfall(weights, present, 0.5).backward()
    assert weights.grad.isfinite().all()
