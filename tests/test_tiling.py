"""InternVL's tiling rule, held against a direct reading of it."""

from __future__ import annotations

from fractions import Fraction

import pytest

from magicmm.tiling import tile_boxes, tile_grid


@pytest.mark.parametrize(
    ("width", "height", "most", "grid"),
    [
        (448, 448, 12, (1, 1)),
        (896, 448, 12, (2, 1)),
        (448, 896, 12, (1, 2)),
        (1344, 448, 12, (3, 1)),
        (4000, 3000, 12, (4, 3)),
        (3000, 4000, 12, (3, 4)),
        (1920, 1080, 4, (2, 1)),
        (1, 10_000, 12, (1, 12)),
        (10_000, 1, 12, (12, 1)),
        (10_000, 1, 1, (1, 1)),
    ],
)
def test_known_grids(width: int, height: int, most: int, grid: tuple[int, int]) -> None:
    assert tile_grid(width, height, 448, most) == grid


def test_a_tie_takes_the_larger_grid_only_when_the_picture_fills_more_than_half_of_it() -> None:
    # 1 x 1 and 2 x 2 have the same shape; half of 2 x 2 is 401,408 pixels, which is 633.6 squared.
    assert tile_grid(633, 633, 448, 4) == (1, 1)
    assert tile_grid(634, 634, 448, 4) == (2, 2)


@pytest.mark.parametrize("most", [1, 2, 4, 6, 12, 40])
@pytest.mark.parametrize("size", [(37, 911), (640, 480), (333, 1000), (5000, 4999), (1, 1), (2480, 3508)])
def test_no_allowed_grid_is_closer_in_shape(size: tuple[int, int], most: int) -> None:
    columns, rows = tile_grid(*size, 448, most)
    grids = [(i, j) for i in range(1, most + 1) for j in range(1, most + 1) if i * j <= most]
    ratio = Fraction(*size)
    assert (columns, rows) in grids
    nearest = min(abs(ratio - Fraction(i, j)) for i, j in grids)
    assert float(abs(ratio - Fraction(columns, rows))) == pytest.approx(float(nearest), abs=1e-12)


def test_boxes_cover_the_sheet_row_by_row() -> None:
    columns, rows, boxes = tile_boxes(896, 448 * 3, 448, 6)
    assert (columns, rows) == (2, 3)
    assert boxes == [(0, 0), (448, 0), (0, 448), (448, 448), (0, 896), (448, 896)]
