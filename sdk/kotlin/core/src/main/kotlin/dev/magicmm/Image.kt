package dev.magicmm

/**
 * A decoded, upright picture: 8-bit RGB, row by row from the top, three bytes a pixel. Values are taken as sRGB.
 *
 * @property width Columns, from 1.
 * @property height Rows, from 1.
 * @property pixels [height] x [width] x 3 bytes, kept and not copied: do not change them.
 * @throws PhotoSkipped `unsupported_pixels` when sizes and bytes do not fit.
 */
public class RgbImage(public val width: Int, public val height: Int, public val pixels: ByteArray) {
    init {
        if (width < 1 || height < 1 || pixels.size.toLong() != 3L * width * height) {
            throw PhotoSkipped(
                SkipReason.UNSUPPORTED_PIXELS,
                "A picture of $width x $height pixels cannot have ${pixels.size} bytes.",
                "Give width x height x 3 bytes of RGB.",
            )
        }
    }
}

/**
 * An upright photo and what its header says of it.
 *
 * @property rgb The picture, possibly decoded at a reduced scale.
 * @property width Pixels of the full, upright photo.
 * @property height Pixels of the full, upright photo.
 * @property taken The camera's wall clock as seconds since 1970-01-01 00:00 of that same clock, or null.
 * @property latitude Degrees north, or null.
 * @property longitude Degrees east, or null.
 */
public class DecodedPhoto(
    public val rgb: RgbImage,
    public val width: Int,
    public val height: Int,
    public val taken: Double?,
    public val latitude: Double?,
    public val longitude: Double?,
)

/** What turns the bytes of a file into a photo; the only step of preprocessing that may differ between platforms. */
public fun interface PhotoDecoder {
    /**
     * Decode one photo. May be called from several threads.
     *
     * @param data The whole file.
     * @param minSide The picture may come at a reduced scale as long as both sides stay at least this long; 0 = full scale.
     * @throws PhotoSkipped With the reason, whatever is wrong with the bytes.
     */
    public fun decode(data: ByteArray, minSide: Int): DecodedPhoto
}

/**
 * Photos as an image graph reads them: square RGB pictures of one size, one behind the other.
 *
 * @property count Number of pictures.
 * @property side Columns and rows of each.
 * @property data [count] x [side] x [side] x 3 bytes.
 */
public class Pixels(public val count: Int, public val side: Int, public val data: ByteArray) {
    init {
        if (count < 1 || side < 1 || data.size.toLong() != 3L * count * side * side) {
            throw MagicError(
                ErrorCode.ARGUMENT_INVALID,
                "$count pictures of $side x $side pixels cannot have ${data.size} bytes.",
                "Pass what Embedder.prepare gave.",
            )
        }
    }
}
