package dev.magicmm

/**
 * Resize one photo into the views of a bundle: `crop` is the centred square of the shorter side at whole offsets, `squash`
 * the whole photo.
 */
@MagicInternals
public fun renderViews(rgb: RgbImage, spec: ImageSpec): Pixels {
    val pictures =
        spec.views.map { view ->
            if (view ==
                "crop"
            ) {
                resize(rgb, spec.side, spec.side, centredSquare(rgb))
            } else {
                resize(rgb, spec.side, spec.side)
            }
        }
    return stacked(pictures, spec.side)
}

/** Cut a document into tiles by InternVL's rule, plus a thumbnail when there is more than one. */
@MagicInternals
public fun renderTiles(rgb: RgbImage, side: Int, maxTiles: Int): Pixels {
    val grid = tileGrid(rgb.width, rgb.height, side, maxTiles)
    val sheet = resize(rgb, grid.columns * side, grid.rows * side)
    val tiles = grid.leftTop(side).map { (left, top) ->
        resize(sheet, side, side, Box(left, top, left + side, top + side))
    }
    return stacked(if (tiles.size > 1) tiles + resize(rgb, side, side) else tiles, side)
}

private fun centredSquare(rgb: RgbImage): Box {
    val short = minOf(rgb.width, rgb.height)
    val left = (rgb.width - short) / 2
    val top = (rgb.height - short) / 2
    return Box(left, top, left + short, top + short)
}

private fun stacked(pictures: List<RgbImage>, side: Int): Pixels {
    val data = ByteArray(pictures.sumOf { it.pixels.size })
    pictures.forEachIndexed { place, picture ->
        System.arraycopy(picture.pixels, 0, data, place * picture.pixels.size, picture.pixels.size)
    }
    return Pixels(pictures.size, side, data)
}
