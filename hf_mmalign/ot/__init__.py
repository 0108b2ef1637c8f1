"""Batched optimal transport: costs, solvers with padding and envelope gradients, certificates, multi-marginal plans."""

from .costs import cosine_cost
from .gaussian import bures_cost
from .multimarginal import MultiMarginalResult, multi_marginal
from .problem import TransportResult
from .solvers import solve

__all__ = ["MultiMarginalResult", "TransportResult", "bures_cost", "cosine_cost", "multi_marginal", "solve"]
