"""Attention, dropout and a linear layer written by hand for training on a CPU.

A reader of a method can pass them by: each computes what PyTorch's own does, and `when.py` says when it takes its place.
"""
