"""Operators that act on each element alone: formula and slope are one string each, shown, run and proved."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gradexplain.mathematics.terms import NAMESPACE
from gradexplain.rules.application import summed_to
from gradexplain.rules.entries import elementwise, rule

# fmt: off
# ------------------------------------------------------------------------------------------------------- arithmetic
elementwise("aten.add.Tensor",   "x z a", "x + a*z", x="1",  z="a")
elementwise("aten.add.Scalar",   "x z a", "x + a*z", x="1")
elementwise("aten.sub.Tensor",   "x z a", "x - a*z", x="1",  z="-a")
elementwise("aten.sub.Scalar",   "x z a", "x - a*z", x="1")
elementwise("aten.rsub.Tensor",  "x z a", "z - a*x", x="-a", z="1")
elementwise("aten.rsub.Scalar",  "x z a", "z - a*x", x="-a")
elementwise("aten.mul.Tensor",   "x z",   "x*z",     x="z",  z="x")
elementwise("aten.mul.Scalar",   "x z",   "x*z",     x="z")
elementwise("aten.div.Tensor",   "x z",   "x/z",     x="1/z", z="-x/z**2")
elementwise("aten.div.Scalar",   "x z",   "x/z",     x="1/z")
elementwise("aten.neg",          "x",     "-x",      x="-1")
elementwise("aten._neg_view",    "x",     "-x",      x="-1")
elementwise("aten.reciprocal",   "x",     "1/x",     x="-y**2")
elementwise("aten.addcmul", "x a b v", "x + v*a*b", x="1", a="v*b", b="v*a")
elementwise("aten.addcdiv", "x a b v", "x + v*a/b", x="1", a="v/b", b="-v*a/b**2")
elementwise("aten.lerp.Scalar",  "x z w", "x + w*(z - x)", x="1 - w", z="w")
elementwise("aten.lerp.Tensor",  "x z w", "x + w*(z - x)", x="1 - w", z="w", w="z - x")
elementwise("aten.deg2rad", "x", "x*pi/180", x="pi/180")
elementwise("aten.rad2deg", "x", "x*180/pi", x="180/pi")

# A quotient that was rounded is constant between its jumps.
elementwise("aten.div.Tensor_mode", "x z m", "where(m == 0, x/z, where(m == 1, floor(x/z), trunc(x/z)))",
            x="where(m == 0, 1/z, 0)", z="where(m == 0, -x/z**2, 0)", why="steps",
            numbers={"rounding_mode": {None: 0.0, "floor": 1.0, "trunc": 2.0}}, example=(
                lambda r: (r(4, 3), r(3), {"rounding_mode": None}),
                lambda r: (r(4, 3), r(3), {"rounding_mode": "floor"}),
                lambda r: (r(4, 3), r(3), {"rounding_mode": "trunc"})))
elementwise("aten.div.Scalar_mode", "x z m", "where(m == 0, x/z, where(m == 1, floor(x/z), trunc(x/z)))",
            x="where(m == 0, 1/z, 0)", why="steps",
            numbers={"rounding_mode": {None: 0.0, "floor": 1.0, "trunc": 2.0}}, example=(
                lambda r: (r(4, 3), 0.7, {"rounding_mode": None}),
                lambda r: (r(4, 3), 0.7, {"rounding_mode": "floor"})))

# The remainder follows the quotient's whole part q: y = x − z q, so that ∂y/∂z = −q; q itself does not move but where
# x/z is whole: there z moves the quotient away from 0 on one side and towards it on the other.
_JUMPS = {"kink": "(abs(x) > 0) & (x/z == trunc(x/z))", "why": "steps"}
_NEARER = "sign(x/z) - x/z"
elementwise("aten.fmod.Tensor",      "x z", "x - z*trunc(x/z)", x="1", z="-trunc(x/z)", **_JUMPS,
            sides={"z": (f"where(z > 0, -x/z, {_NEARER})", f"where(z > 0, {_NEARER}, -x/z)")})
elementwise("aten.fmod.Scalar",      "x z", "x - z*trunc(x/z)", x="1", why="steps")
elementwise("aten.remainder.Tensor", "x z", "x - z*floor(x/z)", x="1", z="-floor(x/z)", **_JUMPS,
            sides={"z": ("where(x > 0, -x/z, 1 - x/z)", "where(x > 0, 1 - x/z, -x/z)")})
elementwise("aten.remainder.Scalar", "x z", "x - z*floor(x/z)", x="1", why="steps")
elementwise("aten.frac",  "x", "x - trunc(x)", x="1", why="steps")
elementwise("aten.floor", "x", "floor(x)", x="0", why="steps")
elementwise("aten.ceil",  "x", "ceil(x)",  x="0", why="steps")
elementwise("aten.round", "x", "round(x)", x="0", why="steps")
elementwise("aten.round.decimals", "x d", "round(x*10.0**d)/10.0**d", x="0", why="steps",
            example=(lambda r: (r(4, 3), {"decimals": 1}), lambda r: (r(4, 3) * 30, {"decimals": -1})))
elementwise("aten.trunc", "x", "trunc(x)", x="0", why="steps")
elementwise("aten.sign",  "x", "sign(x)",  x="0", why="steps")
elementwise("aten.sgn",   "x", "sign(x)",  x="0", why="steps")

# ------------------------------------------------------------------------------------------- powers and logarithms
_EXPONENT = "where(x == 0, where(z >= 0, 0, y*log(x)), y*log(x))"
elementwise("aten.pow.Tensor_Scalar", "x n", "x**n", x="where(n == 0, 0, n*x**(n - 1))", domain=(0.2, 2.0),
            why="power", example=(lambda r: (r(4, 3), 3), lambda r: (r(4, 3), -2.0), lambda r: (r.positive(4, 3), 0.5)))
elementwise("aten.pow.Tensor_Tensor", "x z", "x**z", x="where(z == 0, 0, z*x**(z - 1))", z=_EXPONENT,
            domain=(0.2, 2.0), why="power")
elementwise("aten.pow.Scalar", "x z", "x**z", z=_EXPONENT, why="power")
elementwise("aten.exp",   "x", "exp(x)",   x="y")
elementwise("aten.exp2",  "x", "2.0**x",   x="y*log(2)")
elementwise("aten.expm1", "x", "expm1(x)", x="y + 1")
elementwise("aten.log",   "x", "log(x)",   x="1/x",               domain=(0.2, 3.0))
elementwise("aten.log2",  "x", "log2(x)",  x="1/(x*log(2))",      domain=(0.2, 3.0))
elementwise("aten.log10", "x", "log10(x)", x="1/(x*log(10))",     domain=(0.2, 3.0))
elementwise("aten.log1p", "x", "log1p(x)", x="1/(1 + x)",         domain=(-0.8, 3.0))
elementwise("aten.sqrt",  "x", "sqrt(x)",  x="1/(2*y)",           domain=(0.2, 3.0), why="sqrt_at_zero")
elementwise("aten.rsqrt", "x", "rsqrt(x)", x="-y**3/2",           domain=(0.2, 3.0))
elementwise("aten.logaddexp",  "x z", "log(exp(x) + exp(z))",      x="sigmoid(x - z)", z="sigmoid(z - x)")
elementwise("aten.logaddexp2", "x z", "log2(2.0**x + 2.0**z)",
            x="sigmoid(log(2)*(x - z))", z="sigmoid(log(2)*(z - x))")
elementwise("aten.ldexp.Tensor", "x z", "x*2.0**z", x="2.0**z", z="y*log(2)")
# Where x = 0 and the logarithm has no value, there is nothing on either side of x: the sides are nan.
_XLOGY = {"domain": (0.2, 3.0), "why": "xlogy"}
_ALONE = {"kink": "(x == 0) & (z <= 0)", "sides": {"x": ("0*log(z)", "0*log(z)")}}
elementwise("aten.xlogy.Tensor", "x z", "where(x == 0, 0, x*log(z))", x="log(z)", z="x/z", **_XLOGY, **_ALONE)
elementwise("aten.xlogy.Scalar_Self",  "x z", "where(x == 0, 0, x*log(z))", z="x/z", **_XLOGY)
elementwise("aten.xlogy.Scalar_Other", "x z", "where(x == 0, 0, x*log(z))", x="log(z)", **_XLOGY, **_ALONE)
elementwise("aten.special_xlog1py", "x z", "where(x == 0, 0, x*log1p(z))", x="log1p(z)", z="x/(1 + z)",
            domain=(-0.8, 3.0), why="xlogy", kink="(x == 0) & (z <= -1)",
            sides={"x": ("0*log1p(z)", "0*log1p(z)")})
elementwise("aten.special_entr", "x", "where(x == 0, 0, -x*log(x))", x="-log(x) - 1", domain=(0.2, 3.0))

# ------------------------------------------------------------------------- trigonometric and hyperbolic functions
elementwise("aten.sin",   "x", "sin(x)",   x="cos(x)")
elementwise("aten.cos",   "x", "cos(x)",   x="-sin(x)")
elementwise("aten.tan",   "x", "tan(x)",   x="1 + y**2",           domain=(-1.2, 1.2))
elementwise("aten.asin",  "x", "asin(x)",  x="1/sqrt(1 - x**2)",   domain=(-0.9, 0.9))
elementwise("aten.acos",  "x", "acos(x)",  x="-1/sqrt(1 - x**2)",  domain=(-0.9, 0.9))
elementwise("aten.atan",  "x", "atan(x)",  x="1/(1 + x**2)")
elementwise("aten.sinh",  "x", "sinh(x)",  x="cosh(x)")
elementwise("aten.cosh",  "x", "cosh(x)",  x="sinh(x)")
elementwise("aten.tanh",  "x", "tanh(x)",  x="1 - y**2")
elementwise("aten.asinh", "x", "asinh(x)", x="1/sqrt(x**2 + 1)")
elementwise("aten.acosh", "x", "acosh(x)", x="1/sqrt(x**2 - 1)",   domain=(1.2, 3.0))
elementwise("aten.atanh", "x", "atanh(x)", x="1/(1 - x**2)",       domain=(-0.9, 0.9))
elementwise("aten.atan2", "x z", "atan2(x, z)", x="z/(x**2 + z**2)", z="-x/(x**2 + z**2)")
elementwise("aten.hypot", "x z", "sqrt(x**2 + z**2)", x="x/y", z="z/y",
            kink="y == 0", sides={"x": ("-1", "1"), "z": ("-1", "1")}, why="hypot_at_zero")
elementwise("aten.sinc",  "x", "sinc(x)",  x="where(x == 0, 0, (cos(pi*x) - y)/x)")

# ------------------------------------------------------------------------------------------------- special functions
elementwise("aten.erf",      "x", "erf(x)",     x="2/sqrt(pi)*exp(-x**2)")
elementwise("aten.erfc",     "x", "erfc(x)",    x="-2/sqrt(pi)*exp(-x**2)")
elementwise("aten.erfinv",   "x", "erfinv(x)",  x="sqrt(pi)/2*exp(y**2)",  domain=(-0.9, 0.9))
elementwise("aten.lgamma",   "x", "lgamma(x)",  x="digamma(x)",            domain=(0.3, 4.0))
elementwise("aten.digamma",  "x", "digamma(x)", x="trigamma(x)",           domain=(0.3, 4.0))
elementwise("aten.i0",         "x", "i0(x)",  x="i1(x)")
elementwise("aten.special_i1", "x", "i1(x)",  x="where(x == 0, 1/2, i0(x) - y/x)")
elementwise("aten.special_i0e", "x", "exp(-abs(x))*i0(x)", x="exp(-abs(x))*i1(x) - sign(x)*y",
            kink="x == 0", sides={"x": ("1", "-1")}, why="kink_abs")
elementwise("aten.special_i1e", "x", "exp(-abs(x))*i1(x)",
            x="where(x == 0, 1/2, exp(-abs(x))*i0(x) - y*(sign(x) + 1/x))")
elementwise("aten.special_erfcx", "x", "exp(x**2)*erfc(x)", x="2*x*y - 2/sqrt(pi)")
elementwise("aten.special_ndtri", "x", "sqrt(2)*erfinv(2*x - 1)", x="sqrt(2*pi)*exp(y**2/2)", domain=(0.1, 0.9))
elementwise("aten.special_log_ndtr", "x", "log(erfc(-x/sqrt(2))/2)", x="exp(-x**2/2 - y)/sqrt(2*pi)")
elementwise("aten.logit", "x e", "where(x < e, log(e/(1 - e)), where(x > 1 - e, log((1 - e)/e), log(x/(1 - x))))",
            x="where(x < e, 0, where(x > 1 - e, 0, 1/(x*(1 - x))))", domain=(0.1, 0.9),
            numbers={"eps": {None: -math.inf}}, why="clamped", kink="(x == e) | (x == 1 - e)",
            sides={"x": ("where(x == e, 0, 1/(x*(1 - x)))", "where(x == e, 1/(x*(1 - x)), 0)")},
            example=(lambda r: (r.between(0.1, 0.9, 4, 3),), lambda r: (r.between(0.1, 0.9, 4, 3), 0.2)))

# --------------------------------------------------------------------------------------- comparisons, kinks and steps
# Conditions are written so that nan, which fails every comparison, goes on in the forward as it does in torch.
elementwise("aten.abs", "x", "abs(x)", x="sign(x)", over="complex",  # of a complex number, x / |x|
            kink="x == 0", sides={"x": ("-1", "1")}, why="kink_abs")
_LARGER, _SMALLER = "where(x == z, 1/2, where(x < z, 0, 1))", "where(x == z, 1/2, where(x > z, 0, 1))"
elementwise("aten.maximum", "x z", "maximum(x, z)", x=_LARGER, z=_SMALLER,
            kink="x == z", sides={"x": ("0", "1"), "z": ("0", "1")}, why="tie_two", tie="shared")
elementwise("aten.minimum", "x z", "minimum(x, z)", x=_SMALLER, z=_LARGER,
            kink="x == z", sides={"x": ("1", "0"), "z": ("1", "0")}, why="tie_two", tie="shared")
elementwise("aten.fmax", "x z", "maximum(x, z)", x="where(x >= z, 1, 0)", z="where(x >= z, 0, 1)",
            kink="x == z", sides={"x": ("0", "1"), "z": ("0", "1")}, why="tie_two", tie="shared")
elementwise("aten.fmin", "x z", "minimum(x, z)", x="where(x <= z, 1, 0)", z="where(x <= z, 0, 1)",
            kink="x == z", sides={"x": ("1", "0"), "z": ("1", "0")}, why="tie_two", tie="shared")
# Between bounds that stand in order, a clamp gives the middle one of x, low and high; of two that are equal, either.
_CLAMPED = {
    "why": "kink_clamp", "numbers": {"min": {None: -math.inf}, "max": {None: math.inf}},
    "kink": "((x == low) | (x == high)) & (low <= high)",
}
_X_SIDES = ("where((x == high) & (low < high), 1, 0)", "where((x == low) & (low < high), 1, 0)")
elementwise("aten.clamp", "x low high", "minimum(maximum(x, low), high)", **_CLAMPED, sides={"x": _X_SIDES},
            x="where(x >= low, where(x <= high, 1, 0), 0)", example=(
                lambda r: (r(4, 3), -0.6, 0.8), lambda r: (r(4, 3), None, 0.4), lambda r: (r(4, 3), -0.3)))
_BOUNDS_MEET = "((low == high) & (x < low))"
elementwise("aten.clamp.Tensor", "x low high", "minimum(maximum(x, low), high)",
            **_CLAMPED | {"kink": f"({_CLAMPED['kink']}) | {_BOUNDS_MEET}"}, tie="shared",
            sides={"x": _X_SIDES, "low": ("where(x < low, 1, 0)", _X_SIDES[1]),
                   "high": ("where(x < high, where(low == high, 1, 0), 1)", "0")},
            x="where(x >= low, where(x <= high, 1, 0), 0)",
            low="where(x < low, where(low <= high, 1, 0), 0)",
            high="where(x > high, 1, where(low > high, 1, 0))", example=(
                lambda r: (r(4, 3), r.between(-0.8, -0.1, 3), r.between(0.1, 0.8, 3)),
                lambda r: (r(4, 3), r.between(-0.8, 0.8, 3))))
_CLAMPED_MIN = {"kink": "x == low", "why": "kink_clamp"}
_CLAMPED_MAX = {"kink": "x == high", "why": "kink_clamp"}
elementwise("aten.clamp_min", "x low", "maximum(x, low)", x="where(x >= low, 1, 0)", **_CLAMPED_MIN,
            sides={"x": ("0", "1")})
elementwise("aten.clamp_max", "x high", "minimum(x, high)", x="where(x <= high, 1, 0)", **_CLAMPED_MAX,
            sides={"x": ("1", "0")})
elementwise("aten.clamp_min.Tensor", "x low", "maximum(x, low)",
            x="where(x >= low, 1, 0)", low="where(x < low, 1, 0)", **_CLAMPED_MIN, tie="shared",
            sides={"x": ("0", "1"), "low": ("0", "1")})
elementwise("aten.clamp_max.Tensor", "x high", "minimum(x, high)",
            x="where(x <= high, 1, 0)", high="where(x > high, 1, 0)", **_CLAMPED_MAX, tie="shared",
            sides={"x": ("1", "0"), "high": ("1", "0")})
elementwise("aten.where.self", "c x z", "where(c == 1, x, z)", x="where(c == 1, 1, 0)", z="where(c == 1, 0, 1)",
            example=lambda r: (r.mask(4, 3), r(3), r(4, 1)))
elementwise("aten.masked_fill.Scalar", "x m v", "where(m == 1, v, x)", x="where(m == 1, 0, 1)",
            example=lambda r: (r(4, 3), r.mask(3), 0.7))
elementwise("aten.masked_fill.Tensor", "x m v", "where(m == 1, v, x)",
            x="where(m == 1, 0, 1)", v="where(m == 1, 1, 0)", example=lambda r: (r(4, 3), r.mask(4, 3), r()))
_SIGN = "where(z >= 0, 1, -1)"
elementwise("aten.copysign.Tensor", "x z", f"abs(x)*{_SIGN}", x=f"sign(x)*{_SIGN}", z="0", kink="x == 0",
            sides={"x": (f"-{_SIGN}", _SIGN)}, why="kink_abs")
elementwise("aten.copysign.Scalar", "x z", f"abs(x)*{_SIGN}", x=f"sign(x)*{_SIGN}", kink="x == 0",
            sides={"x": (f"-{_SIGN}", _SIGN)}, why="kink_abs")

# ------------------------------------------------------------------------------------------------ activation functions
elementwise("aten.sigmoid", "x", "sigmoid(x)", x="y*(1 - y)")
# Of complex numbers these send conjugates.
elementwise("aten.sigmoid_backward", "g s", "g*s*(1 - s)", g="s*(1 - s)", s="g*(1 - 2*s)", over="real")
elementwise("aten.tanh_backward", "g t", "g*(1 - t**2)", g="1 - t**2", t="-2*g*t", over="real")
elementwise("aten.threshold_backward", "g x t", "where(x <= t, 0, g)", g="where(x <= t, 0, 1)", x="0",
            example=lambda r: (r(4, 3), r(4, 3), 0.2))
elementwise("aten.log_sigmoid_forward", "x", "log(sigmoid(x))", x="sigmoid(-x)")
elementwise("aten.silu", "x", "x*sigmoid(x)", x="sigmoid(x)*(1 + x*(1 - sigmoid(x)))")
_GATE = "tanh(log1p(exp(x)))"
elementwise("aten.mish", "x", f"x*{_GATE}", x=f"{_GATE} + x*sigmoid(x)*(1 - {_GATE}**2)")
_INNER = "tanh(sqrt(2/pi)*(x + 0.044715*x**3))"
elementwise("aten.gelu", "x t", f"where(t == 0, x*(1 + erf(x/sqrt(2)))/2, x*(1 + {_INNER})/2)",
            x="where(t == 0, (1 + erf(x/sqrt(2)))/2 + x*exp(-x**2/2)/sqrt(2*pi), "
              f"(1 + {_INNER})/2 + x*(1 - {_INNER}**2)*sqrt(2/pi)*(1 + 3*0.044715*x**2)/2)",
            numbers={"approximate": {"none": 0.0, "tanh": 1.0}},
            example=(lambda r: (r(4, 3),), lambda r: (r(4, 3), {"approximate": "tanh"})))
elementwise("aten.softplus", "x b t", "where(b*x > t, x, log1p(exp(b*x))/b)", x="where(b*x > t, 1, sigmoid(b*x))",
            why="softplus", example=(lambda r: (r(4, 3), 1.3), lambda r: (r(4, 3) * 20,)))
elementwise("aten.relu", "x", "where(x <= 0, 0, x)", x="where(x <= 0, 0, 1)",
            kink="x == 0", sides={"x": ("0", "1")}, why="kink_relu")
elementwise("aten.leaky_relu", "x a", "where(x <= 0, a*x, x)", x="where(x <= 0, a, 1)",
            kink="x == 0", sides={"x": ("a", "1")}, why="kink_piece")
elementwise("aten._prelu_kernel", "x a", "where(x <= 0, a*x, x)", x="where(x <= 0, a, 1)", a="where(x <= 0, x, 0)",
            kink="x == 0", sides={"x": ("a", "1")}, why="kink_piece")
elementwise("aten.elu", "x a s i", "where(x <= 0, s*a*expm1(i*x), s*x)", x="where(x <= 0, s*a*i*exp(i*x), s)",
            kink="x == 0", sides={"x": ("s*a*i", "s")}, why="kink_piece")
elementwise("aten.celu", "x a", "where(x <= 0, a*expm1(x/a), x)", x="where(x <= 0, exp(x/a), 1)")
elementwise("aten.threshold", "x t v", "where(x <= t, v, x)", x="where(x <= t, 0, 1)",
            kink="x == t", sides={"x": ("0", "1")}, why="kink_piece")
_INSIDE = "where(x > low, where(x < high, 1, 0), 0)"
elementwise("aten.hardtanh", "x low high", "minimum(maximum(x, low), high)", x=_INSIDE, why="kink_piece",
            kink="(x == low) | (x == high)", sides={"x": ("where(x == low, 0, 1)", "where(x == low, 1, 0)")},
            example=lambda r: (r(4, 3), -0.6, 0.8))
elementwise("aten.hardsigmoid", "x", "minimum(maximum(x + 3, 0), 6)/6",
            x="where(x > -3, where(x < 3, 1/6, 0), 0)", domain=(-5.0, 5.0), why="kink_piece",
            kink="(x == -3) | (x == 3)", sides={"x": ("where(x < 0, 0, 1/6)", "where(x < 0, 1/6, 0)")})
elementwise("aten.hardswish", "x", "x*minimum(maximum(x + 3, 0), 6)/6",
            x="where(x > -3, where(x < 3, x/3 + 1/2, 1), 0)", domain=(-5.0, 5.0), why="kink_piece",
            kink="(x == -3) | (x == 3)", sides={"x": ("where(x < 0, 0, 3/2)", "where(x < 0, -1/2, 1)")})
elementwise("aten.hardshrink", "x l", "where(abs(x) > l, x, 0)", x="where(abs(x) > l, 1, 0)",
            kink="abs(x) == l", sides={"x": ("where(x > 0, 0, 1)", "where(x > 0, 1, 0)")}, why="jump_shrink")
elementwise("aten.softshrink", "x l", "sign(x)*maximum(abs(x) - l, 0)", x="where(abs(x) > l, 1, 0)",
            kink="abs(x) == l", sides={"x": ("where(x > 0, 0, 1)", "where(x > 0, 1, 0)")}, why="kink_shrink")
# fmt: on

# ------------------------------------------------------------------------------------ functions with a formula in words
_NUMPY: Mapping[str, Any] = NAMESPACE
_lgamma = _NUMPY["lgamma"]


def _polygamma(n: int, x: Tensor) -> Tensor:
    """ψ⁽ⁿ⁾(x) = (−1)ⁿ⁺¹ n! Σₖ 1/(x + k)ⁿ⁺¹ for n > 0, a zeta function; torch's own ψ′ is a series cut off at 1e-9."""
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x  # zeta has no kernel for these
    found: Tensor = (-1) ** (n + 1) * math.factorial(n) * torch.special.zeta(n + 1, wide)
    return found.to(x.dtype)


rule(
    "aten.polygamma",
    "y = ψ⁽ⁿ⁾(x), the n-th derivative of the digamma function",
    self=("x̄ = ȳ ψ⁽ⁿ⁺¹⁾(x)", lambda g, n, self: g * _polygamma(n + 1, self)),
    over="real",
    example=(lambda r: (1, r.positive(4, 3)), lambda r: (3, r.positive(3))),
)
rule(
    "aten.mvlgamma",
    "y = log Γₚ(x) = p (p − 1)/4 log π + Σⱼ log Γ(x − j/2), j = 0 … p − 1",
    self=(
        "x̄ = ȳ Σⱼ ψ(x − j/2)",
        lambda g, self, p: g * torch.stack([torch.digamma(self - j / 2) for j in range(p)]).sum(0),
    ),
    terms=lambda self, p: sum((_lgamma(self - j / 2) for j in range(p)), p * (p - 1) / 4 * math.log(math.pi)),
    over="real",
    example=lambda r: (r.positive(4, 3) + 1.5, 3),
)


def _density(a: Tensor, x: Tensor) -> Tensor:
    """Returns xᵃ⁻¹ e⁻ˣ / Γ(a)."""
    return torch.exp((a - 1) * x.log() - x - torch.lgamma(a))


# Torch has a derivative by the bound of the integral alone.
rule(
    "aten.igamma",
    "y = ∫ tᵃ⁻¹ e⁻ᵗ dt / Γ(a) from 0 to x",
    other=("x̄ = ȳ xᵃ⁻¹ e⁻ˣ / Γ(a)", lambda g, self, other: summed_to(g * _density(self, other), other.shape)),
    over="real",
    example=lambda r: (r.positive(4, 3), r.positive(3)),
)
rule(
    "aten.igammac",
    "y = ∫ tᵃ⁻¹ e⁻ᵗ dt / Γ(a) from x on",
    other=("x̄ = −ȳ xᵃ⁻¹ e⁻ˣ / Γ(a)", lambda g, self, other: summed_to(-g * _density(self, other), other.shape)),
    over="real",
    example=lambda r: (r.positive(4, 3), r.positive(3)),
)
rule(
    "aten.nan_to_num",
    "y = x, and numbers in the place of nan and ±∞",
    self=("x̄ = ȳ where x is finite, else 0", lambda g, self: torch.where(self.isfinite(), g, 0)),
    over="real",
    example=(lambda r: (r(4, 3),), lambda r: (torch.tensor([0.3, math.inf, -0.4]).double(), 0.0, 2.5, -2.5)),
)
rule(
    "aten.rrelu_with_noise",
    "y = x where x > 0, else a x; in training a is drawn for each element, else it is the middle of the range",
    self=(
        "x̄ = ȳ where x > 0, else a ȳ",
        lambda g, self, y, lower, upper, training: torch.where(
            self > 0, g, g * torch.where(torch.tensor(training) & (self < 0), y / self, (lower + upper) / 2)
        ),
    ),
    over="real",
    why="dropout",
    example=(lambda r: (r(4, 3), r(4, 3) * 0, 0.1, 0.3, True), lambda r: (r(4, 3), r(4, 3) * 0, 0.1, 0.3, False)),
)
rule(
    "aten.frexp.Tensor",
    "x = y 2ᵉ with a whole number e and ½ ≤ |y| < 1",
    self=("x̄ = ȳ / 2ᵉ", lambda g, y1: g[0] / 2.0 ** y1.to(g[0].dtype)),
    over="real",
    why="steps",
    example=lambda r: (r(4, 3),),
)
rule(
    "aten.bernoulli",
    "y = 1 with probability p, else 0",
    self=("p̄ = 0: what was drawn stays as it is when p moves a little", lambda g: torch.zeros_like(g)),
    over="real",
    why="steps",
    example=lambda r: (r.between(0.1, 0.9, 4, 3),),
)
