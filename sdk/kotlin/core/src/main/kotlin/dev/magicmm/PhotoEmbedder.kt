package dev.magicmm

/**
 * What a [Gallery] needs of a model. Thread-safe: photos are prepared in several threads while the model runs in
 * another. Vectors are float32 [dim] of unit length.
 */
public interface PhotoEmbedder {
    /** Name of the model, for people and for the index. */
    public val name: String

    /** What vectors depend on, 64 hex digits; vectors of different fingerprints are never mixed. */
    public val fingerprint: String

    /** Length of the vectors, 1 to 16384. */
    public val dim: Int

    /** What turns scores of a search by words into a probability; null when the model does not say. */
    public val confidence: ConfidenceSpec? get() = null

    /**
     * Compares the model's files with their hashes; called before its vectors first enter an index.
     *
     * @throws MagicError `bundle_invalid`.
     */
    public fun checkHashes()

    /**
     * Decodes and resizes a photo, without the model.
     *
     * @param data The bytes of the file.
     * @throws PhotoSkipped When the photo cannot be used.
     */
    public fun preparePhoto(data: ByteArray): PreparedPhoto

    /**
     * Embeds photos that [preparePhoto] made ready: one vector for each, the same whatever stands beside it.
     *
     * @throws MagicError `runtime_failed` when the model refuses them.
     */
    public fun embedPixels(pixels: List<ByteArray>): List<FloatArray>

    /**
     * Embeds a query of words, of a photo (the bytes of a file), or of both in one vector.
     *
     * @param truncate Use the beginning of a text that is too long, instead of an error.
     * @throws MagicError `argument_invalid` when both are missing, `text_invalid`, `image_invalid`, `runtime_failed`.
     */
    public fun embedQuery(text: String?, image: ByteArray?, truncate: Boolean): FloatArray

    /** Gives back what only photos need of the model, as far as it can tell; words go on at their speed. */
    public fun releaseImages(): Unit = release()

    /** Gives back the memory of the model; the next call loads what it needs again. */
    public fun release()
}

/**
 * A photo ready for the model, and what its file says of it.
 *
 * @property pixels uint8 [views or tiles, side, side, 3], RGB.
 * @property width Pixels of the full, upright photo.
 * @property height Pixels of the full, upright photo.
 * @property taken The camera's wall clock in seconds since 1970-01-01 00:00 of that clock, or null.
 * @property latitude Degrees, or null; both or none.
 * @property longitude Degrees, or null.
 */
public class PreparedPhoto(
    public val pixels: ByteArray,
    public val width: Int,
    public val height: Int,
    public val taken: Double? = null,
    public val latitude: Double? = null,
    public val longitude: Double? = null,
)
