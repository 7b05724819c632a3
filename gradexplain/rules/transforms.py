"""Fourier transforms, and the ways between real and complex numbers.

Torch pairs a cotangent with a change as ⟨ȳ, dy⟩ = Re Σ conj(ȳ) dy. For a linear y = M x that is x̄ = Mᴴ ȳ; of a real x
only the real part counts. The transform has the matrix Fⱼₖ = s exp(−2πi jk/n), with a factor s that is the same on the
way back, so Fᴴ is the transform with the other sign in the exponent. Source: Kreutz-Delgado 2009, arXiv:0906.4835.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from gradexplain.rules.application import summed_to
from gradexplain.rules.entries import rule

# ------------------------------------------------------------------------------------------------ Fourier transforms


def _transform(x: Tensor, dim: Sequence[int], normalization: int, forward: bool) -> Tensor:
    made: Tensor = torch.ops.aten._fft_c2c(x, list(dim), normalization, forward)
    return made


def _real_input_back(g: Tensor, self: Tensor, dim: Sequence[int], normalization: int, onesided: bool) -> Tensor:
    """Of a onesided transform the other half was not given out: nothing arrived there."""
    if onesided:
        whole = g.new_zeros(self.shape)
        whole.narrow(dim[-1], 0, g.shape[dim[-1]]).copy_(g)
        g = whole
    return _transform(g, dim, normalization, False).real


def _real_output_back(g: Tensor, dim: Sequence[int], normalization: int, size: int) -> Tensor:
    """yⱼ = s Σₖ wₖ Re(xₖ exp(2πi jk/n)) along the last axis: x₀, and of an even n the middle one, are there once, every
    other xₖ is there twice, once as its conjugate. So x̄ₖ = wₖ s Σⱼ ȳⱼ exp(−2πi jk/n); the other axes are as in F.
    """
    sent: Tensor = torch.ops.aten._fft_r2c(g, list(dim), normalization, True)
    sent.movedim(dim[-1], -1)[..., 1 : (size + 1) // 2] *= 2
    return sent


rule(
    "aten._fft_c2c",
    "yₖ = s Σⱼ xⱼ exp(∓2πi jk/n)",
    self=(
        "x̄ⱼ = s Σₖ ȳₖ exp(±2πi jk/n)",
        lambda g, dim, normalization, forward: _transform(g, dim, normalization, not forward),
    ),
    over="complex",
    example=(
        lambda r: (r.complex(2, 5), [1], 0, True),
        lambda r: (r.complex(3, 2, 4), [0, 2], 1, False),
        lambda r: (r.complex(3, 4), [1], 2, True),
    ),
)
rule(
    "aten._fft_r2c",
    "yₖ = s Σⱼ xⱼ exp(−2πi jk/n) of real x; onesided: for k ≤ n/2 alone",
    self=(
        "x̄ⱼ = s Re Σₖ ȳₖ exp(2πi jk/n)",
        lambda g, self, dim, normalization, onesided: _real_input_back(g, self, dim, normalization, onesided),
    ),
    over="complex",
    example=(
        lambda r: (r(2, 5), [1], 0, True),
        lambda r: (r(4, 2, 3), [2, 0], 1, True),
        lambda r: (r(3, 4), [1], 2, False),
    ),
)
rule(
    "aten._fft_c2r",
    "yⱼ = s Σₖ xₖ exp(2πi jk/n), with the conjugates as the xₖ of k > n/2",
    self=(
        "x̄ₖ = s wₖ Σⱼ ȳⱼ exp(−2πi jk/n), w₀ = 1 and w = 1 in the middle of an even n, else wₖ = 2",
        lambda g, dim, normalization, last_dim_size: _real_output_back(g, dim, normalization, last_dim_size),
    ),
    over="complex",
    example=(
        lambda r: (r.complex(2, 4), [1], 2, 6),
        lambda r: (r.complex(3, 2, 3), [2, 0], 1, 4),
        lambda r: (r.complex(3, 3), [1], 0, 5),
    ),
)

# --------------------------------------------------------------------------------------------------- complex numbers

for _name in ("_conj", "_conj_physical"):
    rule(
        f"aten.{_name}",
        "y = conj(x)",
        self=("x̄ = conj(ȳ)", lambda g: g.conj().resolve_conj()),
        over="complex",
        example=lambda r: (r.complex(2, 3),),
    )
rule(
    "aten.view_as_real",
    "y = (Re x, Im x)",
    self=("x̄ = ȳ₀ + i ȳ₁", lambda g: torch.complex(g[..., 0], g[..., 1])),
    over="complex",
    example=lambda r: (r.complex(2, 3),),
)
rule(
    "aten.view_as_complex",
    "y = x₀ + i x₁",
    self=("x̄ = (Re ȳ, Im ȳ)", lambda g: torch.stack([g.real, g.imag], -1)),
    over="complex",
    example=lambda r: (r(3, 2),),
)
rule(
    "aten.complex",
    "y = a + i b",
    real=("ā = Re ȳ", lambda g, real: summed_to(g.real, real.shape)),
    imag=("b̄ = Im ȳ", lambda g, imag: summed_to(g.imag, imag.shape)),
    over="complex",
    example=lambda r: (r(2, 3), r(3)),
)


def _along(g: Tensor, direction: Tensor) -> Tensor:
    """Returns Re(conj(direction) ȳ): what arrives for a real number that moves y in a direction."""
    return (g * direction.conj()).real


rule(
    "aten.polar",
    "y = r exp(iφ)",
    abs=(
        "r̄ = Re(exp(−iφ) ȳ)",
        lambda g, abs, angle: summed_to(_along(g, torch.complex(angle.cos(), angle.sin())), abs.shape),
    ),
    angle=("φ̄ = Re(conj(i y) ȳ)", lambda g, angle, y: summed_to(_along(g, 1j * y), angle.shape)),
    over="complex",
    example=lambda r: (r.positive(2, 3), r(3)),
)
# φ = Im log x, so dφ = Im(dx / x) = Re(conj(i x) dx) / |x|²
rule(
    "aten.angle",
    "φ = the angle of x in the plane of complex numbers: of a real x, 0 or π",
    self=("x̄ = φ̄ i x / |x|², of a real x 0", lambda g, self: _angle_back(g, self)),
    over="complex",
    why="angle_at_zero",
    example=(lambda r: (r.complex(2, 3),), lambda r: (r(2, 3),)),
)


def _angle_back(g: Tensor, self: Tensor) -> Tensor:
    if not self.is_complex():
        return torch.zeros_like(self)
    return torch.where(self == 0, 0, g * 1j * self / self.abs() ** 2)
