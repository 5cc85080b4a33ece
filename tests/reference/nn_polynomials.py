"""The polynomials of core/nn/vec.h: minimax fits, and their error when evaluated in f32.

    python tests/reference/nn_polynomials.py
"""

import math

import numpy as np
from numpy.polynomial import chebyshev, polynomial


def fit(function, low, high, degree, weight=lambda x: 1.0):
    """Coefficients, lowest first, that minimise max |weight · (polynomial - function)| (Lawson's reweighting)."""
    nodes = np.cos(np.pi * (np.arange(2000) + 0.5) / 2000)
    x = (low + high) / 2 + (high - low) / 2 * nodes
    y = np.array([function(v) for v in x])
    scale = np.array([weight(v) for v in x])
    basis = chebyshev.chebvander(nodes, degree)
    share = np.ones(len(x))
    for _ in range(60):
        root = np.sqrt(share) * scale
        found = np.linalg.lstsq(basis * root[:, None], y * root, rcond=None)[0]
        error = np.abs(basis @ found - y) * scale
        share *= error / error.max() + 1e-3
        share /= share.sum()
    inner = chebyshev.cheb2poly(found)
    outer = np.zeros(1)
    for coefficient in inner[::-1]:  # Horner, with the node as a polynomial in x
        outer = polynomial.polyadd(polynomial.polymul(outer, [-(low + high) / (high - low), 2 / (high - low)]), [coefficient])
    return outer, error.max()


def show(name, found):
    coefficients, error = found
    print(f"{name}: error {error:.2g}\n   ", ", ".join(f"{c:.8e}" for c in coefficients))
    return coefficients


def main():
    # e^r = 1 + r + r² p(r)
    show("exp", fit(lambda r: (math.expm1(r) - r) / r / r if abs(r) > 1e-3 else 0.5 + r / 6 + r * r / 24,
                    -0.34658, 0.34658, 4, lambda r: r * r))
    # tanh x = x + x z p(z), z = x²
    show("tanh", fit(lambda z: (math.tanh(math.sqrt(z)) / math.sqrt(z) - 1) / z if z > 1e-6 else -1 / 3 + 2 * z / 15,
                     0, 0.4225, 4, lambda z: z))
    # erfc(x / sqrt 2) = e^q(x)
    q = show("gelu", fit(lambda x: math.log(math.erfc(x / math.sqrt(2))), 0, 5.5, 11))
    x = np.linspace(0, 5.5, 200001).astype(np.float32)
    value = np.full_like(x, np.float32(q[-1]))
    for coefficient in q[-2:0:-1]:
        value = value * x + np.float32(coefficient)
    value = value * x
    want = np.array([math.erfc(v / math.sqrt(2)) for v in x.astype(float)])
    print("   gelu in f32, absolute:", np.max(np.abs(np.exp(value.astype(float)) - want) * x / 2))


if __name__ == "__main__":
    main()
