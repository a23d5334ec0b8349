"""Stacking: a pixel's class probabilities from the probabilities of all members at that pixel.

Wolpert 1992, "Stacked generalization", with log probabilities as inputs. Class k of pixel p gets softmax over k of
mean_m log q[m,k,p] + strength * c_k(p), where the correction c is a linear map, or a perceptron with one hidden layer,
of the M*K log probabilities: without a correction it is the members' geometric mean. A class that the stacker was not
fitted on keeps that mean's probability, and the others share the rest as the stacker says. Imports neither numba nor
torch.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]
LEAST = np.float32(1e-6)  # a probability counts for no less in a geometric mean: 0 would be a veto
BLOCK = 8192  # pixels worked on at once: their logarithms stay in a core's cache


@dataclass(frozen=True, eq=False)
class Stacker:
    """M members and K classes. `layers` are weights and biases, float32: (K,M*K), (K,) of a linear map, or (H,M*K),
    (H,), (K,H), (K,) with rectified units between. The last layer's rows of classes that are not `fitted` (K,) are 0.
    """

    layers: tuple[Float, ...]
    fitted: NDArray[np.bool_]
    strength: float = 1.0  # of the correction: 0 is the geometric mean

    @property
    def num_classes(self) -> int:
        return int(self.fitted.size)

    @property
    def num_members(self) -> int:
        return int(self.layers[0].shape[1]) // self.num_classes

    @property
    def num_hidden(self) -> int:
        """0 of a linear map."""
        return len(self.layers[0]) if len(self.layers) > 2 else 0

    @cached_property
    def map_key(self) -> str:
        """Stackers with equal keys differ in strength alone."""
        digest = hashlib.sha256(self.fitted.tobytes())
        for layer in self.layers:
            digest.update(repr(layer.shape).encode() + np.ascontiguousarray(layer, np.float32).tobytes())
        return digest.hexdigest()

    def at_strength(self, strength: float) -> Stacker:
        """The same with its correction at this strength."""
        return replace(self, strength=strength)

    def scores(self, q: Float) -> tuple[Float, Float]:
        """q (M,K,P) -> the mean log probabilities and the correction at strength 1, both (K,P)."""
        logs = np.log(np.maximum(q, LEAST))
        values = logs.reshape(-1, q.shape[2])
        for weights, biases in zip(self.layers[::2], self.layers[1::2], strict=True):
            values = weights @ (values if weights is self.layers[0] else np.maximum(values, 0)) + biases[:, None]
        mean: Float = logs.sum(0) / np.float32(len(q))
        return mean, values

    def joined(self, mean: Float, correction: Float) -> Float:
        """What `scores` returned -> probabilities (K,P)."""
        corrected = mean + np.float32(self.strength) * correction
        if self.fitted.all():
            return softmax(corrected)
        plain = softmax(mean)
        plain[self.fitted] = plain[self.fitted].sum(0) * softmax(corrected[self.fitted])
        return plain

    def probabilities(self, q: Float) -> Float:
        """q (M,K,P) -> (K,P) that sum to 1 at every pixel."""
        out = np.empty(q.shape[1:], np.float32)
        for start in range(0, q.shape[2], BLOCK):
            part = slice(start, start + BLOCK)
            out[:, part] = self.joined(*self.scores(q[:, :, part]))
        return out


def softmax(scores: Float) -> Float:
    """Over the first axis of (K,P)."""
    powers = np.exp(scores - scores.max(0))
    found: Float = powers / powers.sum(0)
    return found
