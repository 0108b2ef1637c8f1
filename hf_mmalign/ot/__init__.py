"""Batched optimal transport: costs, solvers with padding and envelope gradients, certificates, multi-marginal plans."""

from .costs import cosine_cost
from .problem import TransportResult
from .solve import solve

__all__ = ["TransportResult", "cosine_cost", "solve"]
