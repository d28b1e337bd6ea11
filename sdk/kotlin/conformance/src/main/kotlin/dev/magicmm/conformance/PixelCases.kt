package dev.magicmm.conformance

import dev.magicmm.Box
import dev.magicmm.ImageSpec
import dev.magicmm.Pixels
import dev.magicmm.RgbImage
import dev.magicmm.alphaOnWhite
import dev.magicmm.grey16
import dev.magicmm.renderTiles
import dev.magicmm.renderViews
import dev.magicmm.resize
import dev.magicmm.tileGrid
import dev.magicmm.upright

/** Cases of `resize.json`. */
internal fun runResize(case: Case): Any {
    val given = case.inner("input")
    val (left, top, right, bottom) = given.ints("box")
    val (width, height) = given.ints("size")
    return pictureOf(resize(given.inner("image").rgb(), width, height, Box(left, top, right, bottom)))
}

/** Cases of `views.json`: a list of pictures each. */
internal fun runViews(case: Case): Any {
    val given = case.inner("input")
    return when (val operation = given.text("operation")) {
        "views" ->
            picturesOf(renderViews(given.inner("image").rgb(), ImageSpec(given.int("side"), given.texts("views"))))

        "tiles" ->
            picturesOf(renderTiles(given.inner("image").rgb(), given.int("side"), given.int("max_tiles")))

        "alpha_on_white" ->
            given.inner("image").let { listOf(pictureOf(alphaOnWhite(it.int("width"), it.int("height"), it.pixels()))) }

        "grey16" -> given.ints("samples").let { listOf(pictureOf(grey16(it.size, 1, it.toIntArray()))) }

        "upright" -> listOf(pictureOf(upright(given.inner("image").rgb(), given.int("orientation"))))

        else -> throw IllegalArgumentException("Unknown operation $operation.")
    }
}

/** Cases of `tiling.json`. */
internal fun runTiling(case: Case): Any {
    val given = case.inner("input")
    val side = given.int("side")
    val grid = tileGrid(given.int("width"), given.int("height"), side, given.int("max_tiles"))
    val leftTop = grid.leftTop(side).map { (left, top) -> listOf(left, top) }
    return mapOf("columns" to grid.columns, "rows" to grid.rows, "left_top" to leftTop)
}

private fun pictureOf(rgb: RgbImage): Any = pictureOf(rgb.width, rgb.height, rgb.pixels)

private fun picturesOf(pixels: Pixels): List<Any> {
    val bytes = 3 * pixels.side * pixels.side
    return List(pixels.count) { place ->
        pictureOf(pixels.side, pixels.side, pixels.data.copyOfRange(place * bytes, (place + 1) * bytes))
    }
}
