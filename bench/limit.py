"""How far from the machine's limit: a computation beside its own products and convolutions alone.

They are recorded with their shapes as the computation runs, then done again one by one on other
numbers of those shapes, in the same process. Attention's count as torch's fused kernel does them.
"""

from collections import Counter
from collections.abc import Callable

import torch
from tables import Row, spread
from timing import DEVICE, OURS, Options, in_turns
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from detrnb.training import seconds_of

PRODUCTS = (
    *("mm", "addmm", "bmm", "baddbmm", "convolution", "convolution_backward"),
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention_for_cpu_backward",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_flash_attention_backward",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_efficient_attention_backward",
)


class _Recorded(TorchDispatchMode):
    """Inside, products are counted by what they are called with; a tensor stands as its layout."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func.overloadpacket.__name__ in PRODUCTS:
            named = tuple(sorted((name, _layout(x)) for name, x in kwargs.items()))
            self.calls[func, tuple(map(_layout, args)), named] += 1
        return func(*args, **kwargs)


def _layout(x: object) -> object:
    if isinstance(x, Tensor):
        return Tensor, tuple(x.shape), x.stride(), x.dtype
    return tuple(x) if isinstance(x, list) else x


def _made(x: object) -> object:
    if not (isinstance(x, tuple) and x[:1] == (Tensor,)):
        return list(x) if isinstance(x, tuple) else x
    _, shape, stride, dtype = x
    tensor = torch.empty_strided(shape, stride, dtype=dtype, device=DEVICE)
    return tensor.uniform_(-1, 1) if dtype.is_floating_point else tensor.zero_()


def products_of(function: Callable[[], object]) -> Counter:
    """What a function multiplies and convolves: call -> how often."""
    with _Recorded() as recorded:
        function()
    return recorded.calls


def limit_row(what: str, step: Callable[[], object], options: Options) -> Row:
    """A row of how far a step is from its products: in each round both, one after the other."""
    step()
    calls = products_of(step)
    sides = {OURS: step, "products": lambda: seconds_of_products(calls)}
    times = in_turns(sides, options)
    return {
        "what": what,
        "ours, ms": 1e3 * float(times[OURS].min()),
        "its products alone, ms": 1e3 * float(times["products"].min()),
        "share of the limit": spread(times["products"] / times[OURS]),
    }


@torch.no_grad()
def seconds_of_products(calls: Counter) -> float:
    """Seconds of all of them alone, each kind called once before its time is taken."""
    total = 0.0
    for (func, args, named), count in calls.items():
        given, besides = [_made(x) for x in args], {name: _made(x) for name, x in named}

        def once(func=func, given=given, besides=besides) -> object:
            return func(*given, **besides)

        once()
        total += count * seconds_of(once, DEVICE)
    return total
