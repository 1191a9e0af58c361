"""Layers by plain products and sums, where torch's fused kernels have no second derivative or a wrong one.

Attention has none. Layer, batch and instance normalisation have one that is wrong by 1e-4 to 2e-2 of its size under `vmap` (torch
2.13), where a loop over tasks agrees with finite differences; tests/functional/test_layers.py
compares the two for torch's common layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

__all__ = ["plainly", "twice_differentiable"]

_TWICE: ContextVar[bool] = ContextVar("_TWICE", default=False)


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Says that what is computed within will be differentiated twice, where no transform of torch.func says so."""
    token = _TWICE.set(True)
    try:
        yield
    finally:
        _TWICE.reset(token)


def plainly(kinds: Iterable[type]) -> AbstractContextManager[object]:
    """Within it, layers of these types are computed plainly, if there is need."""
    compiling = torch.compiler.is_compiling()  # which traces no cache and no context; there all is torch.func's
    fused = _fused.__wrapped__ if compiling else _fused
    if (torch._C._are_functorch_transforms_active() or (not compiling and _TWICE.get())) and any(map(fused, kinds)):
        return _Plain()
    return nullcontext()


_NORMS = (nn.LayerNorm, nn.modules.batchnorm._NormBase)
_NAMES = {"scaled_dot_product_attention", "layer_norm", "batch_norm", "instance_norm"}


@cache
def _fused(kind: type) -> bool:
    """Whether modules of this type call one of the fused kernels."""
    code = getattr(getattr(kind, "forward", None), "__code__", None)
    return issubclass(kind, (nn.MultiheadAttention, *_NORMS)) or not _NAMES.isdisjoint(getattr(code, "co_names", ()))


class _Plain(TorchFunctionMode):
    """For this thread alone: `torch.nn.attention.sdpa_kernel` would choose for all threads at once."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if (plain := _PLAIN.get(func)) is not None:
            return plain(*args, **kwargs)
        if func is F.multi_head_attention_forward and not kwargs.get("need_weights", True):
            return func(*args, **{**kwargs, "need_weights": True})[0], None  # which takes plain products
        return func(*args, **kwargs)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **kwargs: Any,
) -> Tensor:
    if attn_mask is not None and attn_mask.dtype == torch.bool:  # which the operator would add as 0 and 1
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(~attn_mask, -torch.inf)
    if attn_mask is not None and is_causal:  # which it does not take together
        later = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).triu(1)
        attn_mask, is_causal = attn_mask.masked_fill(later, -torch.inf), False
    plainly = torch.ops.aten._scaled_dot_product_attention_math
    result: Tensor = plainly(query, key, value, attn_mask, dropout_p, is_causal, **kwargs)[0]
    return result


def _normalised(x: Tensor, over: list[int], eps: float) -> Tensor:
    values = x.to(torch.promote_types(x.dtype, torch.float32))  # squares leave the range of 16 bits
    centred = values - values.mean(over, keepdim=True)
    return centred * (centred.square().mean(over, keepdim=True) + eps).rsqrt()


def _layer_norm(
    x: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    if tuple(x.shape[-len(normalized_shape) :]) != tuple(normalized_shape):
        raise RuntimeError(f"layer_norm: expected inputs that end in {tuple(normalized_shape)}, got {tuple(x.shape)}")
    y = _normalised(x, list(range(-len(normalized_shape), 0)), eps)
    y = y if weight is None else y * weight
    return (y if bias is None else y + bias).to(x.dtype)


def _by_channel(y: Tensor, weight: Tensor | None, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    shape = [-1, *[1] * (y.dim() - 2)]
    y = y if weight is None else y * weight.reshape(shape)
    return (y if bias is None else y + bias.reshape(shape)).to(dtype)


def _by_running(x: Tensor, mean: Tensor, variance: Tensor, eps: float) -> Tensor:
    """Normalised by constants."""
    scale = (variance + eps).rsqrt()
    return _by_channel(x, scale, -mean * scale, x.dtype)


def _batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not training and running_mean is not None and running_var is not None:
        return _by_channel(_by_running(x, running_mean, running_var, eps), weight, bias, x.dtype)
    F._verify_batch_size(list(x.shape))  # type: ignore[attr-defined]  # one value has no variance
    return _by_channel(_normalised(x, [0, *range(2, x.dim())], eps), weight, bias, x.dtype)


def _instance_norm(
    x: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not use_input_stats and running_mean is not None and running_var is not None:
        return _by_channel(_by_running(x, running_mean, running_var, eps), weight, bias, x.dtype)
    F._verify_spatial_size(list(x.shape))  # type: ignore[attr-defined]
    return _by_channel(_normalised(x, list(range(2, x.dim())), eps), weight, bias, x.dtype)


_PLAIN: dict[Any, Any] = {
    F.scaled_dot_product_attention: _attention,
    F.layer_norm: _layer_norm,
    torch.layer_norm: _layer_norm,
    F.batch_norm: _batch_norm,
    F.instance_norm: _instance_norm,
}
