"""Static int8 for the convolutions: grids and rounding by what pictures show, a weight scale per output channel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto

from magicmm_export.graph import CONTRIB, Array, GraphWriter
from magicmm_export.nano.efficientnet import NORMALISED, Conv, Network
from magicmm_export.nano.linear import row_scales
from magicmm_export.nano.rounding import ConvInputs
from magicmm_export.nano.run import open_model


@dataclass(frozen=True)
class Grid:
    """The uint8 grid of an activation: `real = scale * (code - zero)`."""

    scale: float
    zero: int

    def store(self, graph: GraphWriter) -> tuple[str, str]:
        """Return the names of the scale and the zero point as constants."""
        return graph.scalar(self.scale), graph.shared(np.array(self.zero, np.uint8))


@dataclass(frozen=True)
class Observation:
    """The extremes that calibration saw of one value."""

    low: float
    high: float

    @property
    def grid(self) -> Grid:
        """The grid that just holds the extremes and zero; clipping any of them cost more than it gained."""
        low, high = min(self.low, 0.0), max(self.high, 0.0)
        # Few digits, so that a last-bit difference between two machines' float kernels does not reach the file.
        scale = float(np.float32(f"{max((high - low) / 255, 1e-9):.4g}"))
        return Grid(scale, round(-low / scale))


@dataclass(frozen=True)
class Calibration:
    """What was seen of the backbone.

    Attributes:
        values: By the names of the values.
        inputs: What each convolution read, by its name.
    """

    values: Mapping[str, Observation]
    inputs: Mapping[str, ConvInputs]


# Weights fill -64..64, not -127..127: x86 processors without VNNI add pairs of products in 16 bits, and only
# 2 * 255 * 64 is sure to fit. The price and the alternatives are in docs/decisions/0003-nano-graphs.md.
WEIGHT_STEPS = 64
# (rgb - 127) / 128, exactly: pixels enter the first convolution as they are.
PIXELS = Grid(1 / 128, 127)


def observe(model: ModelProto, network: Network, batches: Iterable[Array]) -> Calibration:
    """Run the float model on `pixels` batches and return what the values of the backbone were like."""
    names = [NORMALISED]
    for conv in network.convs:
        names += [f"{conv.name}.conv", conv.name] if conv.residual else [conv.name]
    session = open_model(model, names)
    extremes: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    inputs = {conv.name: ConvInputs() for conv in network.convs}
    for batch in batches:
        values = dict(zip(names, session.run(names, {"pixels": batch}), strict=True))
        for name, value in values.items():
            extremes[name].append((float(value.min()), float(value.max())))
        entry = NORMALISED
        for conv in network.convs:
            inputs[conv.name].add(conv, values[entry])
            entry = conv.name
    lows_and_highs = {name: zip(*pairs, strict=True) for name, pairs in extremes.items()}
    seen = {name: Observation(min(lows), max(highs)) for name, (lows, highs) in lows_and_highs.items()}
    return Calibration(seen, inputs)


def int8_backbone(graph: GraphWriter, network: Network, pictures: str, seen: Calibration) -> str:
    """Add the network on uint8 codes; return the float map [n, 1280, 8, 8]."""
    entry, entry_grid = pictures, PIXELS
    for conv in network.convs:
        grid = seen.values[conv.name].grid
        conv_name = f"{conv.name}.conv" if conv.residual else conv.name
        conv_grid = seen.values[conv_name].grid
        value = graph.node(
            "QLinearConv",
            entry,
            *entry_grid.store(graph),
            *_store_weight(graph, conv, entry_grid, seen.inputs[conv.name], conv_grid),
            name=conv_name,
            strides=[conv.stride] * 2,
            pads=list(conv.pads),
            group=conv.groups,
        )
        if conv.residual:
            other = seen.values[conv.residual].grid
            grids = [*conv_grid.store(graph), conv.residual, *other.store(graph), *grid.store(graph)]
            value = graph.node("QLinearAdd", value, *grids, name=conv.name, domain=CONTRIB)
        entry, entry_grid = value, grid
    return graph.node("DequantizeLinear", entry, *entry_grid.store(graph))


def _store_weight(graph: GraphWriter, conv: Conv, entry: Grid, read: ConvInputs, result: Grid) -> tuple[str, ...]:
    """Store what `QLinearConv` reads after its input: weight, scale and zero points, the result's grid, the bias.

    ReLU6 needs no node: the grid of its result starts at 0 and ends at 6 or below, so saturation clips.
    """
    # The bias is an int32 multiple of both scales: a channel with hardly any weight must not make it overflow.
    least_scale = np.abs(conv.bias) / np.float32(entry.scale * 2**30)
    scale = row_scales(conv.weight, WEIGHT_STEPS, least_scale)
    codes = read.round(conv, scale, WEIGHT_STEPS)
    # What rounding the weights takes from the mean of each output channel.
    lost = (conv.weight - codes * scale[:, None, None, None]).reshape(len(codes), -1)
    bias = conv.bias + (lost * read.means).sum(1)
    return (
        graph.constant(f"{conv.name}.weight", codes),
        graph.constant(f"{conv.name}.scale", scale),
        graph.shared(np.array(0, np.int8)),
        *result.store(graph),
        graph.constant(f"{conv.name}.bias", np.rint(bias / (scale * np.float32(entry.scale))).astype(np.int32)),
    )
