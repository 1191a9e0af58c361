"""The same random numbers on all devices and in all floating types, so that their results can be compared."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

DRAWS = {
    *(torch.rand, torch.randn, torch.randint, torch.randperm, torch.rand_like, torch.randn_like, torch.normal),
    *(torch.bernoulli, torch.multinomial, torch.poisson, torch._standard_gamma, torch._sample_dirichlet),
    torch.Tensor.multinomial,
}
FILLS = {getattr(torch.Tensor, f"{name}_") for name in ("normal", "uniform", "exponential", "random", "bernoulli")}


class SameDraws(TorchFunctionMode):
    """Draws on the CPU in float32, from torch's generator, which it seeds, whatever the device, type and generator asked for."""

    def __enter__(self) -> SameDraws:
        torch.manual_seed(3)
        super().__enter__()
        return self

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func not in DRAWS and func not in FILLS:
            return func(*args, **kwargs)
        kwargs.pop("generator", None)
        given = next((a for a in args if isinstance(a, Tensor)), None)
        device = kwargs.pop("device", None) or (given.device if given is not None else "cpu")
        dtype = kwargs.pop("dtype", None) or (given.dtype if func in FILLS and given is not None else None)
        floating = dtype is not None and dtype.is_floating_point
        if func in FILLS:
            drawn = torch.empty(args[0].shape, dtype=torch.float32 if floating else dtype)
            return args[0].copy_(func(drawn, *args[1:], **kwargs))
        if dtype is not None and not floating:
            kwargs["dtype"] = dtype
        args = tree_map(lambda a: a.to("cpu") if isinstance(a, Tensor) else a, args)
        return func(*args, **kwargs).to(device, dtype)
