package dev.magicmm

/**
 * How a document is cut into tiles.
 *
 * @property columns Tiles side by side.
 * @property rows Tiles one above the other.
 */
@MagicInternals
public data class TileGrid(public val columns: Int, public val rows: Int) {
    /** The left and top of every tile on the resized sheet, row by row. */
    public fun leftTop(side: Int): List<Pair<Int, Int>> =
        (0 until rows).flatMap { row -> (0 until columns).map { column -> column * side to row * side } }
}

/**
 * Choose the grid of at most [maxTiles] tiles whose shape is closest to the picture's (docs/FORMAT.md, "Views and tiles").
 * On a tie the larger grid wins when the picture has more than half of its pixels.
 */
@MagicInternals
public fun tileGrid(width: Int, height: Int, side: Int, maxTiles: Int): TileGrid {
    val ratio = width.toDouble() / height
    val grids =
        (1..maxTiles)
            .flatMap { columns -> (1..maxTiles / columns).map { rows -> TileGrid(columns, rows) } }
            .sortedBy { it.columns * it.rows }
    var best = TileGrid(1, 1)
    var bestDifference = Double.POSITIVE_INFINITY
    for (grid in grids) {
        val difference = Math.abs(ratio - grid.columns.toDouble() / grid.rows)
        val fills = width.toDouble() * height > 0.5 * side * side * grid.columns * grid.rows
        if (difference < bestDifference || (difference == bestDifference && fills)) {
            best = grid
            bestDifference = difference
        }
    }
    return best
}
