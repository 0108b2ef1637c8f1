"""Metrics, perturbations and robustness reports."""
