"""InternVL's rule for cutting a document into tiles (paper fact sheet, section 1.2)."""

from __future__ import annotations


def tile_grid(width: int, height: int, side: int, max_tiles: int) -> tuple[int, int]:
    """Choose (columns, rows): the grid of at most `max_tiles` tiles whose shape is closest to the picture's.

    On a tie the larger grid wins when the picture has more than half of its pixels.
    """
    ratio = width / height
    grids = [(i, j) for i in range(1, max_tiles + 1) for j in range(1, max_tiles + 1) if i * j <= max_tiles]
    best = (1, 1)
    best_difference = float("inf")
    for columns, rows in sorted(grids, key=lambda grid: grid[0] * grid[1]):
        difference = abs(ratio - columns / rows)
        fills = width * height > 0.5 * side * side * columns * rows
        if difference < best_difference or (difference == best_difference and fills):
            best, best_difference = (columns, rows), difference
    return best


def tile_boxes(width: int, height: int, side: int, max_tiles: int) -> tuple[int, int, list[tuple[int, int]]]:
    """Return columns, rows and the (left, top) of every tile on the resized sheet, row by row."""
    columns, rows = tile_grid(width, height, side, max_tiles)
    return columns, rows, [(column * side, row * side) for row in range(rows) for column in range(columns)]
