"""EfficientNet-Lite2 as a list of convolutions with batch norm folded in, and its float32 nodes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from magicmm_export.graph import Array, GraphWriter

# The zero padding is that of the size the network was trained at: at 256 px it keeps the sampling grid of training
# (see docs/decisions/0003-nano-graphs.md).
TRAINED_SIZE = 260
BATCH_NORM_EPSILON = 1e-3
CHANNELS = 1280
NORMALISED = "normalised"
# kernel, stride of the first block, output channels, expansion, blocks
STAGES = (
    (3, 1, 16, 1, 1),
    (3, 2, 24, 6, 3),
    (5, 2, 48, 6, 3),
    (3, 2, 88, 6, 4),
    (5, 1, 120, 6, 4),
    (5, 2, 208, 6, 5),
    (3, 1, 352, 6, 1),
)


@dataclass(frozen=True)
class Conv:
    """One convolution and what follows it.

    Attributes:
        name: Name of the value it makes.
        weight: Float32 [out, in / groups, k, k].
        bias: Float32 [out].
        stride: Step in both directions.
        pads: Zero padding top, left, bottom, right.
        relu6: Whether the result is clipped to 0..6; a convolution without is the end of a block.
        residual: Name of the value that is added to the result, if any.
    """

    name: str
    weight: Array
    bias: Array
    stride: int
    pads: tuple[int, int, int, int]
    relu6: bool
    residual: str | None = None

    @property
    def groups(self) -> int:
        """Number of groups: the number of channels in a depthwise convolution, else 1."""
        return len(self.weight) if self.weight.shape[1] == 1 else 1


@dataclass(frozen=True)
class Network:
    """The convolutions in order, and the classifier that reads their last map."""

    convs: tuple[Conv, ...]
    classes: Array
    class_bias: Array


def read_network(state: dict[str, Array]) -> Network:
    """Fold the state dict of `efficientnet-lite-pytorch`; refuse one with tensors that were not used."""
    return _Reader(state).read()


class _Reader:
    """Walk the architecture once, taking tensors out of the state dict and tracking the map size for the padding."""

    def __init__(self, state: dict[str, Array]) -> None:
        self._state = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
        self._size = TRAINED_SIZE
        self._convs: list[Conv] = []

    def read(self) -> Network:
        self._add("stem", "_conv_stem", "_bn0", stride=2)
        block = 0
        for _, stride, _, expansion, repeats in STAGES:
            for repeat in range(repeats):
                self._add_block(f"_blocks.{block}", stride if repeat == 0 else 1, expansion, skip=repeat > 0)
                block += 1
        self._add("head", "_conv_head", "_bn1")
        network = Network(tuple(self._convs), self._state.pop("_fc.weight"), self._state.pop("_fc.bias"))
        if self._state:
            raise ValueError(f"The vision checkpoint holds tensors that the graph does not use: {sorted(self._state)}")
        return network

    def _add_block(self, name: str, stride: int, expansion: int, *, skip: bool) -> None:
        entry = self._convs[-1].name
        if expansion > 1:
            self._add(f"{name}.expand", f"{name}._expand_conv", f"{name}._bn0")
        self._add(f"{name}.depthwise", f"{name}._depthwise_conv", f"{name}._bn1", stride)
        residual = entry if skip else None
        self._add(f"{name}.project", f"{name}._project_conv", f"{name}._bn2", relu6=False, residual=residual)

    def _add(
        self, name: str, conv: str, norm: str, stride: int = 1, *, relu6: bool = True, residual: str | None = None
    ) -> None:
        weight = self._state.pop(f"{conv}.weight")
        gain, shift, mean, variance = (
            self._state.pop(f"{norm}.{part}") for part in ("weight", "bias", "running_mean", "running_var")
        )
        factor = gain / np.sqrt(variance + np.float32(BATCH_NORM_EPSILON))
        folded = (weight * factor[:, None, None, None]).astype(np.float32)
        bias = (shift - mean * factor).astype(np.float32)
        self._convs.append(Conv(name, folded, bias, stride, self._pads(weight.shape[-1], stride), relu6, residual))

    def _pads(self, kernel: int, stride: int) -> tuple[int, int, int, int]:
        size = -(-self._size // stride)
        total = max((size - 1) * stride + kernel - self._size, 0)
        self._size = size
        return total // 2, total // 2, total - total // 2, total - total // 2


def float_backbone(graph: GraphWriter, network: Network, pictures: str) -> str:
    """Add the network for uint8 pictures [n, 3, 256, 256]; return the map [n, 1280, 8, 8]."""
    value = graph.node("Cast", pictures, to=TensorProto.FLOAT)
    value = graph.node("Mul", graph.node("Sub", value, graph.scalar(127)), graph.scalar(1 / 128), name=NORMALISED)
    for conv in network.convs:
        weight = graph.constant(f"{conv.name}.weight", conv.weight)
        bias = graph.constant(f"{conv.name}.bias", conv.bias)
        end = conv.residual is None and not conv.relu6
        name = conv.name if end else f"{conv.name}.conv"
        strides, pads = [conv.stride] * 2, list(conv.pads)
        value = graph.node("Conv", value, weight, bias, name=name, strides=strides, pads=pads, group=conv.groups)
        if conv.relu6:
            value = graph.node("Clip", value, graph.scalar(0), graph.scalar(6), name=conv.name)
        elif conv.residual:
            value = graph.node("Add", value, conv.residual, name=conv.name)
    return value
