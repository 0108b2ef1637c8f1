"""Noise on raw inputs: pictures as pixels, sequences of numbers, words of a text. Pure functions of a random generator.

Strengths scale one and the same draw: what a generator of the same seed disturbs weakly, it disturbs strongly elsewhere.
"""

from collections.abc import Sequence

import numpy as np

# QMF's published code sets NumPy's seed to this before every picture, so that all of one size get the same noise.
_PUBLISHED_SEED = 0


def gaussian_pixels(pixels: np.ndarray, std: float, rng: np.random.Generator) -> np.ndarray:
    """`(H, W, 3)` uint8 plus N(0, `std`²), one draw per pixel for its three channels, clipped to 0–255."""
    noise = std * rng.standard_normal((*pixels.shape[:2], 1))
    return np.clip(np.rint(pixels + noise), 0, 255).astype(np.uint8)


def published_gaussian_pixels(pixels: np.ndarray, std: float) -> np.ndarray:
    """As the public code of QMF (Zhang et al. 2023) adds N(0, `std`²) to `(H, W, 3)` uint8.

    One draw per pixel, the same in every picture of this size; values above 255 become 255, values below 0 wrap around to
    bright ones, fractions are cut off.
    """
    noise = np.random.RandomState(_PUBLISHED_SEED).normal(0.0, std, (*pixels.shape[:2], 1))
    # By way of int64: what a negative float is as uint8 is for each processor to decide.
    return (np.minimum(pixels + noise, 255).astype(np.int64) & 255).astype(np.uint8)


def salt_and_pepper_pixels(pixels: np.ndarray, density: float, rng: np.random.Generator) -> np.ndarray:
    """`(H, W, 3)` uint8 with a share `density` of the pixels black or white, half of them each."""
    draw = rng.random(pixels.shape[:2])
    noisy = pixels.copy()
    noisy[draw < density / 2] = 0
    noisy[draw > 1 - density / 2] = 255
    return noisy


def noise_at_snr(values: np.ndarray, snr: float, rng: np.random.Generator) -> np.ndarray:
    """A waveform or feature sequence of any shape plus white Gaussian noise, `snr` decibels below it, in float32.

    The signal's power is its variance over all entries: an offset, as that of log-mel frames, is no signal. A constant
    stays as it is.
    """
    values = np.asarray(values, dtype=np.float32)
    std = float(values.std(dtype=np.float64)) if values.size else 0.0
    noise = rng.standard_normal(values.shape, dtype=np.float32)
    return values + np.float32(std * 10 ** (-snr / 20)) * noise


def salt_and_pepper_values(values: np.ndarray, density: float, rng: np.random.Generator) -> np.ndarray:
    """Numbers of any shape, a share `density` of them the least or the greatest one, half of them each; in float32."""
    values = np.asarray(values, dtype=np.float32)
    if not values.size:
        return values
    draw = rng.random(values.shape)
    return np.where(draw < density / 2, values.min(), np.where(draw > 1 - density / 2, values.max(), values)).astype(
        np.float32
    )


def replace_words(text: str, p: float, rng: np.random.Generator, words: Sequence[str] = ("_",)) -> str:
    """Each word, between single spaces, replaced with probability `p` by one drawn from `words`."""
    pieces = text.split(" ")
    draw, chosen = rng.random(len(pieces)), rng.integers(len(words), size=len(pieces))
    return " ".join(words[chosen[i]] if draw[i] < p else piece for i, piece in enumerate(pieces))


def drop_words(text: str, p: float, rng: np.random.Generator) -> str:
    """Each word, between single spaces, left out with probability `p`."""
    pieces = text.split(" ")
    draw = rng.random(len(pieces))
    return " ".join(piece for i, piece in enumerate(pieces) if draw[i] >= p)
