"""One layer of the built-in model's encoder as static torch modules, with adapters beside its products or without."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from magicmm_export.decomposition.norms import LayerNorm, Norms
from magicmm_export.nano.layers import Layers, parameter
from magicmm_export.nano.minilm import HEAD_WIDTH, HEADS
from magicmm_export.nano.stored import StoredAdapter, StoredAdapters, StoredLayer, StoredLinear, StoredNorm

BLOCKED = -1e4
"""Added to the score of a place that is filled: its share becomes zero in float32 and in float16."""


class Hidden(nn.Module):
    """What is added to scores of places, by whether they count: 1 or 0, [1, 1, s] -> [1, 1, s]."""

    one: Tensor
    blocked: Tensor

    def __init__(self) -> None:
        """Prepare the numbers."""
        super().__init__()
        for name, value in (("one", 1.0), ("blocked", -BLOCKED)):
            self.register_buffer(name, torch.tensor([value]), persistent=False)

    def forward(self, kept: Tensor) -> Tensor:
        """Return 0 where a place counts, else `BLOCKED`."""
        return (kept - self.one) * self.blocked


class Block(nn.Module):
    """One layer: attention and feed-forward, each followed by its norm."""

    scale: Tensor

    def __init__(self, products: Sequence[nn.Module], norms: Sequence[LayerNorm]) -> None:
        """Join the four products and the two norms, in the order of `StoredLayer`."""
        super().__init__()
        self.attention, self.mixed, self.inner, self.outer = products
        self.attention_norm, self.norm = norms
        self.register_buffer("scale", torch.tensor([HEAD_WIDTH**-0.5]), persistent=False)

    @classmethod
    def of(cls, stored: StoredLayer, layers: Layers) -> Block:
        """Build all parts."""
        products = (stored.attention, stored.mixed, stored.inner, stored.outer)
        norms = (stored.attention_norm, stored.norm)
        return cls([_Balanced(one, layers) for one in products], [norm_of(one, layers.norms) for one in norms])

    def adapted(self, adapters: StoredAdapters) -> Block:
        """Return a layer that has adapters and shares the rest."""
        given = (adapters.attention, adapters.mixed, adapters.inner, adapters.outer)
        pairs = zip((self.attention, self.mixed, self.inner, self.outer), given, strict=True)
        return Block([_Adapted(product, adapter) for product, adapter in pairs], [self.attention_norm, self.norm])

    def forward(self, rows: Tensor, hidden: Tensor | None) -> Tensor:
        """[n, s, width], what is added to scores [1, 1, s] -> [n, s, width]."""
        rows = self.attention_norm(rows + self.mixed(self._attend(self.attention(rows), hidden)))
        normed: Tensor = self.norm(rows + self.outer(functional.gelu(self.inner(rows))))
        return normed

    def _attend(self, joined: Tensor, hidden: Tensor | None) -> Tensor:
        """Queries, keys and values side by side [n, s, 3 x width] -> [n, s, width]."""
        count, length, width = *joined.shape[:2], HEADS * HEAD_WIDTH
        query, key, value = (
            joined[..., start : start + width]
            .reshape(count, length, HEADS, HEAD_WIDTH)
            .permute(0, 2, 1, 3)
            .reshape(count * HEADS, length, HEAD_WIDTH)
            for start in (0, width, 2 * width)
        )
        # Scaled before the product: scores stay within float16.
        scores = torch.bmm(query * self.scale, key.transpose(1, 2))
        shares = (scores if hidden is None else scores + hidden).softmax(-1)
        heads = torch.bmm(shares, value).reshape(count, HEADS, length, HEAD_WIDTH)
        return heads.permute(0, 2, 1, 3).reshape(count, length, width)


class _Balanced(nn.Module):
    """A product whose channels are evened out first, where the builder did so."""

    balance: Tensor | None

    def __init__(self, stored: StoredLinear, layers: Layers) -> None:
        super().__init__()
        self.linear = layers.linear(stored)
        balance = None if stored.balance is None else torch.from_numpy(stored.balance.copy())
        self.register_buffer("balance", balance, persistent=False)

    def forward(self, rows: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        found: Tensor = self.linear(rows if self.balance is None else rows * self.balance)
        return found


class _Adapted(nn.Module):
    """A product and the adapter beside it, in floats: it is small, and what it reads is not rounded, as in ONNX."""

    def __init__(self, product: nn.Module, stored: StoredAdapter) -> None:
        super().__init__()
        self.product, self.down = product, parameter(stored.down)
        self.ups = nn.ParameterList(parameter(up) for up in stored.ups)

    def forward(self, rows: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        narrow, count = functional.linear(rows, self.down), len(self.ups)
        rank = narrow.shape[-1] // count
        # A slice of everything becomes an alias, which coremltools does not take.
        parts = [narrow[..., at * rank : (at + 1) * rank] for at in range(count)] if count > 1 else [narrow]
        wide = [functional.linear(part, up) for part, up in zip(parts, self.ups, strict=True)]
        found: Tensor = self.product(rows) + (wide[0] if len(wide) == 1 else torch.cat(wide, -1))
        return found


def norm_of(stored: StoredNorm, form: Norms) -> LayerNorm:
    """Return a norm in a form."""
    norm = nn.LayerNorm(len(stored.gain), stored.eps)
    norm.weight, norm.bias = parameter(stored.gain), parameter(stored.shift)
    return LayerNorm(norm, form)
