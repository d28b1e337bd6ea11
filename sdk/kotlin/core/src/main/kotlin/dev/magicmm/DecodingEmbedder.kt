package dev.magicmm

/**
 * A bundle as a `Gallery` needs it: an [Embedder], and what decodes photos on this platform.
 *
 * @property embedder The model; shared with whoever else uses it.
 * @property decoder Turns the bytes of a file into pixels.
 */
public class DecodingEmbedder(public val embedder: Embedder, public val decoder: PhotoDecoder) : PhotoEmbedder {
    override val name: String get() = embedder.bundle.manifest.id

    override val fingerprint: String get() = embedder.fingerprint

    override val dim: Int get() = embedder.dim

    override val confidence: ConfidenceSpec? get() = embedder.bundle.manifest.confidence

    override fun checkHashes(): Unit = embedder.bundle.checkHashes()

    override fun preparePhoto(data: ByteArray): PreparedPhoto {
        val photo = decoder.decode(data, embedder.decodeSide())
        val pixels = embedder.prepare(photo.rgb).data
        return PreparedPhoto(pixels, photo.width, photo.height, photo.taken, photo.latitude, photo.longitude)
    }

    override fun embedPixels(pixels: List<ByteArray>): List<FloatArray> {
        val side = embedder.bundle.manifest.image.side
        return embedder.embedPixels(pixels.map { Pixels(it.size / (3 * side * side), side, it) })
    }

    override fun embedQuery(text: String?, image: ByteArray?, truncate: Boolean): FloatArray {
        val role = if (text != null && COMPOSED in embedder.bundle.manifest.roles) COMPOSED else "photo"
        val picture = image?.let { decoder.decode(it, embedder.decodeSide(role)).rgb }
        return embedder.embedQuery(text, picture, truncate)
    }

    override fun releaseImages(): Unit = embedder.releaseImages()

    override fun release(): Unit = embedder.release()
}
