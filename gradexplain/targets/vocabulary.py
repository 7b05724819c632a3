"""What an expression may say: functions, methods, attributes, operators and constants, and what is refused by name."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

from gradexplain.targets.values import ALIASES, ITEMSIZE


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# fmt: off
FAMILIES: Mapping[str, tuple[str, str]] = MappingProxyType({
    "elementwise": ("torch", """
        abs absolute add sub mul div true_divide floor_divide remainder fmod neg positive sign sgn reciprocal square
        sqrt rsqrt pow float_power exp exp2 expm1 log log2 log10 log1p logaddexp logaddexp2 sin cos tan asin acos atan
        atan2 arcsin arccos arctan sinh cosh tanh asinh acosh atanh sinc sigmoid logit erf erfc erfinv lgamma digamma
        polygamma i0 igamma igammac xlogy floor ceil round trunc frac clamp clip clamp_min clamp_max maximum
        minimum fmax fmin hypot lerp addcmul addcdiv nan_to_num heaviside copysign nextafter ldexp deg2rad rad2deg
        angle real imag conj polar complex view_as_real view_as_complex isnan isinf isfinite isclose eq ne lt le gt ge
        logical_and logical_or logical_not logical_xor where clone detach"""),
    "reductions": ("torch", """
        sum mean prod max min amax amin aminmax argmax argmin std var std_mean var_mean median nanmedian mode kthvalue
        quantile nanquantile nansum nanmean logsumexp cumsum cumprod cummax cummin logcumsumexp all any count_nonzero
        sort argsort topk msort diff trapezoid cumulative_trapezoid gradient dist renorm cov corrcoef allclose
        equal"""),
    "linear algebra": ("torch", """
        matmul mm mv bmm dot vdot inner outer ger addmm addmv addr addbmm baddbmm einsum tensordot kron trace cdist
        logdet cholesky_solve cholesky_inverse chain_matmul"""),
    "torch.linalg": ("torch.linalg", """
        det slogdet inv pinv solve solve_triangular lstsq cholesky qr svd svdvals eig eigh eigvals eigvalsh lu lu_factor
        lu_solve norm vector_norm matrix_norm matrix_power matrix_rank matrix_exp multi_dot cond cross vecdot tensorinv
        tensorsolve vander householder_product"""),
    "shape": ("torch", """
        reshape flatten ravel unflatten transpose permute movedim moveaxis swapaxes swapdims squeeze unsqueeze cat
        concat stack hstack vstack dstack split chunk tensor_split unbind tile repeat_interleave broadcast_to
        broadcast_tensors atleast_1d atleast_2d atleast_3d flip fliplr flipud roll rot90 diag diagonal diag_embed
        diagflat tril triu meshgrid cartesian_prod block_diag adjoint"""),
    "indexing": ("torch", """
        gather scatter scatter_add scatter_reduce index_select index_add index_copy index_fill masked_select masked_fill
        masked_scatter take take_along_dim select narrow nonzero argwhere select_scatter slice_scatter diagonal_scatter
        searchsorted bucketize"""),
    "activations": ("torch.nn.functional", """
        relu relu6 leaky_relu prelu rrelu elu celu selu gelu silu mish softplus softsign softshrink hardshrink
        tanhshrink hardtanh hardsigmoid hardswish logsigmoid glu threshold softmax log_softmax softmin gumbel_softmax
        normalize"""),
    "losses": ("torch.nn.functional", """
        mse_loss l1_loss smooth_l1_loss huber_loss cross_entropy nll_loss binary_cross_entropy
        binary_cross_entropy_with_logits kl_div poisson_nll_loss gaussian_nll_loss hinge_embedding_loss
        cosine_embedding_loss margin_ranking_loss triplet_margin_loss soft_margin_loss multi_margin_loss
        multilabel_margin_loss multilabel_soft_margin_loss ctc_loss"""),
    "layers": ("torch.nn.functional", """
        linear bilinear dropout dropout1d dropout2d alpha_dropout embedding embedding_bag one_hot conv1d conv2d conv3d
        conv_transpose1d conv_transpose2d conv_transpose3d unfold fold max_pool1d max_pool2d max_pool3d avg_pool1d
        avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool1d adaptive_max_pool2d lp_pool1d
        lp_pool2d layer_norm batch_norm group_norm instance_norm local_response_norm rms_norm
        scaled_dot_product_attention pad interpolate grid_sample affine_grid pixel_shuffle pixel_unshuffle
        cosine_similarity pairwise_distance pdist"""),
    "creation": ("torch", """
        zeros ones full eye arange linspace logspace tensor zeros_like ones_like full_like rand randn randint rand_like
        randn_like randperm bernoulli multinomial tril_indices triu_indices"""),
    "torch.special": ("torch.special", """
        entr erfcx expit log_ndtr ndtr ndtri i0e i1 i1e psi gammaln xlog1py zeta bessel_j0 bessel_j1"""),
    "torch.fft": ("torch.fft", "fft ifft rfft irfft hfft ihfft fft2 ifft2 rfft2 irfft2 fftn ifftn fftshift ifftshift"),
})
# Where torch itself has a second home for a published function; `torch.relu(x)` is as good as `relu(x)`.
ALSO: Mapping[str, str] = MappingProxyType({
    "torch": """
        relu prelu rrelu celu selu threshold softmax log_softmax conv1d conv2d conv3d conv_transpose1d conv_transpose2d
        conv_transpose3d dropout alpha_dropout embedding bilinear layer_norm group_norm rms_norm cosine_similarity
        pairwise_distance pdist pixel_shuffle pixel_unshuffle det slogdet pinverse inverse cholesky qr svd norm
        matrix_power matrix_exp cross lu_solve t""",
    "torch.nn.functional": "sigmoid tanh",
    "torch.linalg": "diagonal matmul",
    "torch.special": """
        erf erfc erfinv exp2 expm1 log1p logit logsumexp digamma polygamma sinc round xlogy softmax log_softmax i0
        gammainc gammaincc""",
})
IN_PLACE = words("""
    abs_ add_ sub_ mul_ div_ pow_ neg_ exp_ log_ sqrt_ square_ sin_ cos_ tanh_ sigmoid_ relu_ clamp_ reciprocal_ rsqrt_
    addcmul_ addcdiv_ lerp_ zero_ fill_ copy_ masked_fill_ index_fill_ index_add_ scatter_ scatter_add_ floor_ round_
    remainder_""")
ONLY_METHODS = words("""
    relu prelu softmax log_softmax inverse pinverse det slogdet cholesky qr svd norm matrix_power matrix_exp cross
    t view view_as reshape_as expand expand_as repeat unfold contiguous size dim numel sum_to_size to type_as float
    double half bfloat16 int long bool new_zeros new_ones new_full is_floating_point""")
NO_METHODS = words("""
    cholesky complex polar view_as_real view_as_complex std_mean var_mean tensordot einsum cdist chain_matmul
    cat concat stack hstack vstack dstack broadcast_tensors meshgrid cartesian_prod block_diag
    trapezoid cumulative_trapezoid gradient searchsorted bucketize atleast_1d atleast_2d atleast_3d""")
ATTRIBUTES = words("T mT H mH real imag shape dtype ndim device requires_grad is_leaf")
# What functions with several outputs call them.
FIELDS = words("""
    values indices min max mode U S Vh Q R P L LU pivots sign logabsdet solution residuals rank singular_values
    eigenvalues eigenvectors""")
# fmt: on
DTYPES = frozenset(ITEMSIZE)
TORCH_DTYPES = DTYPES | set(ALIASES)
NUMBERS: Mapping[str, float] = MappingProxyType({"pi": math.pi, "e": math.e, "inf": math.inf, "nan": math.nan})
NAMESPACES = ("torch", "F")
CHANGING_OPTIONS = ("out",)


def _homes() -> Iterator[tuple[str, str]]:
    """Yields every published bare name with its home."""
    for home, names in FAMILIES.values():
        for name in names.split():
            yield name, f"{home}.{name}"


FUNCTIONS: Mapping[str, str] = MappingProxyType(dict(_homes()))
SPELLINGS = frozenset(FUNCTIONS.values()) | {f"{home}.{name}" for home, names in ALSO.items() for name in names.split()}
METHODS = frozenset(
    {name for name, home in FUNCTIONS.items() if home == f"torch.{name}" and name not in NO_METHODS}
    - words(FAMILIES["creation"][1])
    | ONLY_METHODS
    | IN_PLACE
)


def published() -> list[tuple[str, tuple[str, ...]]]:
    """Returns what expressions may use, by family, for a help page."""
    families = [(family, tuple(names.split())) for family, (_, names) in FAMILIES.items()]
    return [
        *families,
        ("methods", tuple(sorted(METHODS - IN_PLACE))),
        ("in-place methods", tuple(sorted(IN_PLACE))),
        ("attributes", tuple(sorted(ATTRIBUTES))),
        ("output names", tuple(sorted(FIELDS))),
        ("numbers", tuple(NUMBERS)),
        ("types", tuple(ITEMSIZE)),
    ]


Operation: TypeAlias = Callable[..., Any]

# fmt: off
BINARY: Mapping[type[ast.operator], Operation] = MappingProxyType({
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: operator.pow, ast.MatMult: operator.matmul,
    ast.BitAnd: operator.and_, ast.BitOr: operator.or_, ast.BitXor: operator.xor,
    ast.LShift: operator.lshift, ast.RShift: operator.rshift,
})
UNARY: Mapping[type[ast.unaryop], Operation] = MappingProxyType({
    ast.USub: operator.neg, ast.UAdd: operator.pos, ast.Invert: operator.invert,
})
COMPARISONS: Mapping[type[ast.cmpop], Operation] = MappingProxyType({
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le,
    ast.Gt: operator.gt, ast.GtE: operator.ge,
})
REFUSED: Mapping[type[ast.AST], str] = MappingProxyType({
    ast.BoolOp: "no_and_or", ast.Not: "no_not", ast.IfExp: "no_conditional", ast.Lambda: "no_lambda",
    ast.ListComp: "no_comprehension", ast.SetComp: "no_comprehension", ast.DictComp: "no_comprehension",
    ast.GeneratorExp: "no_comprehension", ast.NamedExpr: "no_walrus", ast.JoinedStr: "no_f_string",
    ast.Starred: "no_star", ast.Import: "no_import", ast.ImportFrom: "no_import", ast.FunctionDef: "no_definition",
    ast.AsyncFunctionDef: "no_definition", ast.ClassDef: "no_definition", ast.AugAssign: "no_augmented",
    ast.For: "no_control_flow", ast.While: "no_control_flow", ast.If: "no_control_flow", ast.With: "no_control_flow",
    ast.Try: "no_control_flow",
})
# fmt: on
