"""The weights of the built-in model as its int8 graphs hold them (docs/decisions/0003, 0013)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from magicmm_export.nano.concepts import CELLS
from magicmm_export.nano.quantise import Grid

VIEW_TOKENS = 1 + CELLS
"""Visual tokens of a view: of its cells, and of the whole."""
Floats = NDArray[np.float32]
Codes = NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class StoredConv:
    """A convolution on uint8 codes.

    Attributes:
        name: Of the value it makes.
        codes: int8 [out, in / groups, k, k].
        scales: float32 [out].
        bias: float32 [out].
        stride: Step in both directions.
        padding: Zeros on all four sides.
        groups: As torch has them.
        entry: Grid of what it reads.
        result: Grid of what it gives; one that begins at 0 clips as ReLU6 does.
        other: Name of the value that is added to the result, or None.
        total: Grid of that sum; that of the result where nothing is added.
    """

    name: str
    codes: Codes
    scales: Floats
    bias: Floats
    stride: int
    padding: int
    groups: int
    entry: Grid
    result: Grid
    other: str | None
    total: Grid

    @property
    def clips(self) -> bool:
        """Whether ReLU6 follows."""
        return self.result.zero == 0

    @property
    def weight(self) -> Floats:
        """float32 [out, in / groups, k, k]."""
        weight: Floats = self.codes * self.scales[:, None, None, None]
        return weight


@dataclass(frozen=True, slots=True)
class StoredTable:
    """Rows that are looked up: int8 codes [n, width] and a float32 scale for each row [n]."""

    codes: Codes
    scales: Floats

    @property
    def rows(self) -> Floats:
        """float32 [n, width]."""
        rows: Floats = self.codes * self.scales[:, None]
        return rows


@dataclass(frozen=True, slots=True)
class StoredLinear:
    """A product with int8 weights.

    Attributes:
        codes: int8 [out, in].
        scales: float32 [out].
        bias: float32 [out].
        balance: float32 [in], multiplied into what it reads, or None.
    """

    codes: Codes
    scales: Floats
    bias: Floats
    balance: Floats | None

    @property
    def weight(self) -> Floats:
        """float32 [out, in]."""
        weight: Floats = self.codes * self.scales[:, None]
        return weight


@dataclass(frozen=True, slots=True)
class StoredNorm:
    """A LayerNorm: gain and shift, float32 [width], and what is added to the variance."""

    gain: Floats
    shift: Floats
    eps: float


@dataclass(frozen=True, slots=True)
class StoredBank:
    """The concept bank: a row for each class, how many of the likeliest count, and the power of their chances."""

    table: StoredTable
    kept: int
    power: float


@dataclass(frozen=True, slots=True)
class StoredSoftWords:
    """What makes visual tokens of logits.

    Attributes:
        table: A row for each class.
        shift: float32 [width], added to each token.
        kept: Classes that a token is mixed from.
        share: Part of a token that is its own cell.
    """

    table: StoredTable
    shift: Floats
    kept: int
    share: float


@dataclass(frozen=True, slots=True)
class StoredColours:
    """The colours of a photo.

    Attributes:
        nearest: uint8 [levels ** 3], the colour word of each cell of the RGB cube.
        vectors: Of the colour words, a row each.
        weight: Of the colours in a photo's vector.
    """

    nearest: NDArray[np.uint8]
    vectors: StoredTable
    weight: float


@dataclass(frozen=True, slots=True)
class StoredAdapter:
    """An adapter beside a product that joins parts.

    Attributes:
        down: float32 [parts x rank, in].
        ups: float32 [out, rank] of each part.
    """

    down: Floats
    ups: tuple[Floats, ...]


@dataclass(frozen=True, slots=True)
class StoredAdapters:
    """The adapters of one layer, by the product that each stands beside."""

    attention: StoredAdapter
    mixed: StoredAdapter
    inner: StoredAdapter
    outer: StoredAdapter


@dataclass(frozen=True, slots=True)
class StoredStudent:
    """What was trained, beside the encoder of the text graph.

    Attributes:
        words: The visual tokens.
        adapters: Of each layer.
        colours: What joins a photo's vector.
        views: Of a photo that are read.
        encoder_weight: Of what the encoder says, in a photo's vector; what the bank says weighs 1.
        both_weight: Of photo and words read together, in what the composed graph says; the photo's vector weighs 1.
    """

    words: StoredSoftWords
    adapters: tuple[StoredAdapters, ...]
    colours: StoredColours
    views: int
    encoder_weight: float
    both_weight: float

    @property
    def handed(self) -> int:
        """Rows of `visual`: the visual tokens of a photo, and its vector."""
        return self.views * VIEW_TOKENS + 1


@dataclass(frozen=True, slots=True)
class StoredImage:
    """The image graph.

    Attributes:
        convs: In order.
        classifier: Of the 1000 concepts.
        bank: What they say of a photo.
        student: None: the bank says all.
    """

    convs: tuple[StoredConv, ...]
    classifier: StoredLinear
    bank: StoredBank
    student: StoredStudent | None


@dataclass(frozen=True, slots=True)
class StoredLayer:
    """One layer of the text graph, by its six parts."""

    attention: StoredLinear
    mixed: StoredLinear
    attention_norm: StoredNorm
    inner: StoredLinear
    outer: StoredLinear
    norm: StoredNorm


@dataclass(frozen=True, slots=True)
class StoredText:
    """The text graph.

    Attributes:
        words: A row for each token.
        positions: float32 [most tokens, width]; the type of the tokens is in there.
        norm: Of the sum of both.
        layers: In order.
    """

    words: StoredTable
    positions: Floats
    norm: StoredNorm
    layers: tuple[StoredLayer, ...]
