"""From the patch grid to visual tokens: 2x2 mean, then InternVL's pixel unshuffle (paper section 3.2; decision 0005).

Everything is reshapes of at most five dimensions and means, which ONNX, ExecuTorch and Core ML all take as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def halve_grid(grid: Tensor) -> Tensor:
    """Shrink a grid by 2 in both directions by the mean of each 2 x 2 cells.

    At a factor of exactly 2 this is `F.interpolate(mode="bilinear", align_corners=False)`: each output lies in the
    middle of four inputs.

    Args:
        grid: [n, h, w, c] with even h and w.

    Returns:
        [n, h / 2, w / 2, c].
    """
    n, height, width, channels = grid.shape
    rows = grid.reshape(n, height // 2, 2, width * channels).mean(2)
    return rows.reshape(n, height // 2, width // 2, 2, channels).mean(3)


def unshuffle(grid: Tensor) -> Tensor:
    """Join each 2 x 2 cells into one token, row by row (`downsample_ratio` 0.5, `ps_version` v2).

    Args:
        grid: [n, h, w, c] with even h and w.

    Returns:
        [n, (h / 2) * (w / 2), 4 c]; channels of the upper left, upper right, lower left, lower right cell.
    """
    n, height, width, channels = grid.shape
    cells = grid.reshape(n, height // 2, 2, width // 2, 2 * channels).transpose(2, 3)
    return cells.reshape(n, height // 2 * (width // 2), 4 * channels)
