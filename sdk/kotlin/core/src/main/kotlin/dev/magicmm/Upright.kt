package dev.magicmm

/**
 * Turn a picture upright (docs/FORMAT.md, "Upright RGB").
 *
 * @param orientation The value of EXIF tag 0x0112; other numbers than 2 to 8 turn nothing.
 */
@MagicInternals
public fun upright(rgb: RgbImage, orientation: Int): RgbImage {
    if (orientation !in 2..8) return rgb
    val swaps = orientation >= 5
    val width = if (swaps) rgb.height else rgb.width
    val height = if (swaps) rgb.width else rgb.height
    val right = rgb.width - 1
    val bottom = rgb.height - 1
    val out = ByteArray(rgb.pixels.size)
    for (y in 0 until height) {
        for (x in 0 until width) {
            val source =
                when (orientation) {
                    2 -> y * rgb.width + (right - x)
                    3 -> (bottom - y) * rgb.width + (right - x)
                    4 -> (bottom - y) * rgb.width + x
                    5 -> x * rgb.width + y
                    6 -> (bottom - x) * rgb.width + y
                    7 -> (bottom - x) * rgb.width + (right - y)
                    else -> x * rgb.width + (right - y)
                }
            System.arraycopy(rgb.pixels, source * 3, out, (y * width + x) * 3, 3)
        }
    }
    return RgbImage(width, height, out)
}

/**
 * Lay a picture with alpha over white.
 *
 * @param rgba [height] x [width] x 4 bytes, not premultiplied.
 * @throws PhotoSkipped `unsupported_pixels` when sizes and bytes do not fit.
 */
@MagicInternals
public fun alphaOnWhite(width: Int, height: Int, rgba: ByteArray): RgbImage {
    val out = ByteArray(rgba.size / 4 * 3)
    for (pixel in 0 until rgba.size / 4) {
        val alpha = rgba[4 * pixel + 3].toInt() and 0xFF
        for (channel in 0 until 3) {
            val colour = rgba[4 * pixel + channel].toInt() and 0xFF
            val wide = 255 * (255 - alpha) + colour * alpha + 128
            out[3 * pixel + channel] = (((wide shr 8) + wide) shr 8).toByte()
        }
    }
    return RgbImage(width, height, out)
}

/**
 * Grey samples of 16 bits as RGB: their high byte, three times.
 *
 * @throws PhotoSkipped `unsupported_pixels` for samples outside 0 to 65535, and when sizes and samples do not fit.
 */
@MagicInternals
public fun grey16(width: Int, height: Int, samples: IntArray): RgbImage {
    if (samples.any { it !in 0..0xFFFF }) {
        throw PhotoSkipped(SkipReason.UNSUPPORTED_PIXELS, "Pixels are 32-bit numbers of unknown range.")
    }
    return RgbImage(width, height, ByteArray(3 * samples.size) { place -> (samples[place / 3] shr 8).toByte() })
}
