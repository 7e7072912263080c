"""How a step's noise is shared between its gradient and the noisy count that moves its clip norm.

Guarantee: gradient and count together are one Gaussian mechanism of the accounted noise multiplier, for every
adjacency and sampling, because what one unit adds to the two, each in units of its own noise, is a vector of
length at most 1 / noise_multiplier. Imports the standard library only. The derivation is in docs/design/0012;
source: Andrew, Thakkar, McMahan and Ramaswamy 2021 (arXiv 1905.03871), Theorem 1.
"""

from __future__ import annotations

import math

from dp_diffusers.errors import ParameterError, positive


def gradient_noise(noise_multiplier: float, quantile_noise: float) -> float:
    """Noise multiplier of the gradient, (z^-2 - (2 sigma_b)^-2)^(-1/2): a little above the accounted z.

    quantile_noise: sigma_b, the noise on a count to which a unit adds from -1/2 to +1/2. Raises
    `ParameterError` unless sigma_b > z / 2: at less, the count alone costs more than was accounted.
    """
    positive(noise_multiplier=noise_multiplier, quantile_noise=quantile_noise)
    part = noise_multiplier / (2.0 * quantile_noise)
    if not part < 1.0:
        raise ParameterError(
            f"expected quantile_noise above half the noise multiplier, {noise_multiplier / 2:.4g}, "
            f"got {quantile_noise:g}",
            hint="raise mechanism.quantile_noise; null takes expected_units / 20, which grows with the batch",
        )
    # (1 - p)(1 + p) keeps its digits where p is close to 1
    return noise_multiplier / math.sqrt((1.0 - part) * (1.0 + part))
