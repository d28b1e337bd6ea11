package dev.magicmm.conformance

import dev.magicmm.ConfidenceSpec
import dev.magicmm.ErrorCode
import dev.magicmm.MagicError
import dev.magicmm.PhotoEmbedder
import dev.magicmm.PhotoSkipped
import dev.magicmm.PreparedPhoto
import dev.magicmm.SkipReason
import java.io.ByteArrayInputStream
import javax.imageio.ImageIO

/**
 * A model whose vectors are the same integers in every language, so that whole indexes can be compared: for each
 * quarter of the picture the sums of red, green and blue less 128, then the number of pixels. The words of a query are
 * three numbers, a colour; what follows them says nothing of the picture.
 */
internal class PixelSums(
    override val name: String,
    override val fingerprint: String,
    override val confidence: ConfidenceSpec? = null,
) : PhotoEmbedder {
    override val dim: Int = 16

    override fun checkHashes() = Unit

    override fun preparePhoto(data: ByteArray): PreparedPhoto {
        if (data.isEmpty()) throw PhotoSkipped(SkipReason.EMPTY_FILE, "The file is empty.")
        val image = ImageIO.read(ByteArrayInputStream(data))
            ?: throw PhotoSkipped(SkipReason.NOT_AN_IMAGE, "The content is no picture.")
        val pixels = ByteArray(image.width * image.height * 3)
        for (place in 0 until image.width * image.height) {
            val rgb = image.getRGB(place % image.width, place / image.width)
            for (channel in 0..2) pixels[3 * place + channel] = (rgb shr (16 - 8 * channel)).toByte()
        }
        val sides = byteArrayOf(image.width.toByte(), image.height.toByte())
        return PreparedPhoto(sides + pixels, image.width, image.height)
    }

    override fun embedPixels(pixels: List<ByteArray>): List<FloatArray> = pixels.map { picture ->
        sums(picture[0].toInt(), picture[1].toInt()) { x, y, channel ->
            picture[2 + 3 * (y * picture[0] + x) + channel].toInt() and 0xFF
        }
    }

    override fun embedQuery(text: String?, image: ByteArray?, truncate: Boolean): FloatArray {
        if (image != null) return embedPixels(listOf(preparePhoto(image).pixels)).single()
        if (text == null) throw MagicError(ErrorCode.ARGUMENT_INVALID, "The query is empty.", "Give text or image.")
        val colour = text.split(" ").take(3).map { it.toInt() }
        return sums(SIDE, SIDE) { _, _, channel -> colour[channel] }
    }

    override fun release() = Unit

    private fun sums(width: Int, height: Int, sample: (x: Int, y: Int, channel: Int) -> Int): FloatArray {
        val vector = FloatArray(dim)
        for (y in 0 until height) {
            for (x in 0 until width) {
                for (channel in 0..2) {
                    val quarter = (if (y < height / 2) 0 else 2) + (if (x < width / 2) 0 else 1)
                    vector[3 * quarter + channel] += (sample(x, y, channel) - 128).toFloat()
                }
            }
        }
        vector[12] = (width * height).toFloat()
        return vector
    }

    private companion object {
        const val SIDE = 20
    }
}
