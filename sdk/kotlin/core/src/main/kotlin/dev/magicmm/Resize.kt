package dev.magicmm

/** A part of a picture: columns [left] until [right], rows [top] until [bottom]. */
@MagicInternals
public class Box(internal val left: Int, internal val top: Int, internal val right: Int, internal val bottom: Int)

/**
 * Resize a box of a picture, bit for bit as every other language does (docs/FORMAT.md, "Resize"): 8-bit bicubic in integer
 * arithmetic, columns first.
 */
@MagicInternals
public fun resize(rgb: RgbImage, width: Int, height: Int, box: Box = Box(0, 0, rgb.width, rgb.height)): RgbImage {
    val across = resizeAcross(rgb, width, box)
    return RgbImage(width, height, resizeDown(across, 3 * width, box.bottom - box.top, height))
}

/** Rows of the box, each resampled to [width] pixels. */
private fun resizeAcross(rgb: RgbImage, width: Int, box: Box): ByteArray {
    val columns = box.right - box.left
    val rows = box.bottom - box.top
    val out = ByteArray(rows * width * 3)
    if (columns == width) {
        for (row in 0 until rows) {
            val start = ((box.top + row) * rgb.width + box.left) * 3
            System.arraycopy(rgb.pixels, start, out, row * width * 3, width * 3)
        }
        return out
    }
    val kernel = Kernel(columns, width)
    val pixels = rgb.pixels
    var target = 0
    for (row in 0 until rows) {
        val start = ((box.top + row) * rgb.width + box.left) * 3
        for (column in 0 until width) {
            var red = HALF
            var green = HALF
            var blue = HALF
            var source = start + kernel.first[column] * 3
            for (place in kernel.offset[column] until kernel.offset[column + 1]) {
                val weight = kernel.weights[place]
                red += (pixels[source].toInt() and 0xFF) * weight
                green += (pixels[source + 1].toInt() and 0xFF) * weight
                blue += (pixels[source + 2].toInt() and 0xFF) * weight
                source += 3
            }
            out[target] = clipped(red)
            out[target + 1] = clipped(green)
            out[target + 2] = clipped(blue)
            target += 3
        }
    }
    return out
}

/** Every column of [rows] x [stride] bytes resampled to [height] rows; whole rows at a time, which caches like. */
private fun resizeDown(pixels: ByteArray, stride: Int, rows: Int, height: Int): ByteArray {
    if (rows == height) return pixels
    val kernel = Kernel(rows, height)
    val out = ByteArray(height * stride)
    val sums = IntArray(stride)
    for (row in 0 until height) {
        sums.fill(HALF)
        var source = kernel.first[row] * stride
        for (place in kernel.offset[row] until kernel.offset[row + 1]) {
            val weight = kernel.weights[place]
            for (column in 0 until stride) sums[column] += (pixels[source + column].toInt() and 0xFF) * weight
            source += stride
        }
        for (column in 0 until stride) out[row * stride + column] = clipped(sums[column])
    }
    return out
}

private const val PRECISION = 22
private const val HALF = 1 shl (PRECISION - 1)

private fun clipped(sum: Int): Byte = (sum shr PRECISION).coerceIn(0, 255).toByte()

/** Which samples of an axis make each of its new samples, and with what weight in units of 2^-22. */
private class Kernel(samples: Int, size: Int) {
    /** The first sample that takes part, by new sample. */
    val first = IntArray(size)

    /** Where the weights of a new sample begin; those of the next one follow. */
    val offset = IntArray(size + 1)
    val weights: IntArray

    init {
        // float64 in exactly this order of operations: other orders round to other weights.
        val scale = samples.toDouble() / size
        val stretch = maxOf(scale, 1.0)
        val support = 2.0 * stretch
        val ends = IntArray(size)
        for (x in 0 until size) {
            val centre = (x + 0.5) * scale
            first[x] = maxOf((centre - support + 0.5).toInt(), 0)
            ends[x] = minOf((centre + support + 0.5).toInt(), samples)
            offset[x + 1] = offset[x] + ends[x] - first[x]
        }
        weights = IntArray(offset[size])
        val real = DoubleArray((0 until size).maxOf { ends[it] - first[it] })
        for (x in 0 until size) {
            val centre = (x + 0.5) * scale
            val count = ends[x] - first[x]
            var sum = 0.0
            for (i in 0 until count) {
                real[i] = bicubic((first[x] + i - centre + 0.5) * (1.0 / stretch))
                sum += real[i]
            }
            for (i in 0 until count) weights[offset[x] + i] = fixed(real[i] / sum)
        }
    }

    private fun fixed(weight: Double): Int {
        val scaled = weight * (1 shl PRECISION)
        return (if (weight < 0) scaled - 0.5 else scaled + 0.5).toInt()
    }

    private fun bicubic(distance: Double): Double {
        val t = Math.abs(distance)
        return when {
            t < 1.0 -> (1.5 * t - 2.5) * t * t + 1.0
            t < 2.0 -> (((t - 5.0) * t + 8.0) * t - 4.0) * -0.5
            else -> 0.0
        }
    }
}
