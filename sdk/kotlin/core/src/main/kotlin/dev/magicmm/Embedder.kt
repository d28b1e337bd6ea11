package dev.magicmm

/**
 * Turns texts and photos into vectors of one space: float32 of length 1, whose dot product is their cosine. Blocking and
 * thread-safe; graphs load on first use.
 *
 * @property bundle The model in use.
 */
public class Embedder private constructor(public val bundle: Bundle, private val encoder: Encoder) : AutoCloseable {
    /** Length of the vectors. */
    public val dim: Int get() = bundle.manifest.dim

    /** What vectors depend on; see [Bundle.fingerprint]. */
    public val fingerprint: String get() = bundle.fingerprint

    /**
     * The pixels that both sides of a photo must keep when it is decoded: twice what the model sees.
     *
     * @throws MagicError `argument_invalid` (no such role).
     */
    @JvmOverloads
    public fun decodeSide(role: String = "photo"): Int = 2 * bundle.manifest.image.side * roleOf(role).maxTiles

    /**
     * Embed one text: [dim] numbers.
     *
     * @param text What the photo shows, in words.
     * @param role A role of the bundle; it sets the words that the model reads around the text.
     * @param truncate Use the beginning of a text that is too long, instead of an error.
     * @throws MagicError `text_invalid` (empty, too long), `argument_invalid` (no such role), `runtime_failed`,
     *   `bundle_invalid` (a file of the bundle that only now turns out to be broken).
     */
    @JvmOverloads
    public fun embedText(text: String, role: String = "query", truncate: Boolean = false): FloatArray =
        encoder.encodeText(text, roleOf(role), truncate)

    /**
     * Embed one photo: [dim] numbers.
     *
     * @throws MagicError `argument_invalid` (no such role), `runtime_failed`, `bundle_invalid`.
     */
    @JvmOverloads
    public fun embedImage(image: RgbImage, role: String = "photo"): FloatArray =
        embedImages(listOf(image), role).first()

    /** Embed photos together, each as if it were alone (up to the runtime's rounding of the last bit); see [embedImage]. */
    @JvmOverloads
    public fun embedImages(images: List<RgbImage>, role: String = "photo"): List<FloatArray> {
        roleOf(role)
        // However many are asked for, only so many are held as pixels at once.
        return images.chunked(CHUNK).flatMap { some -> embedPixels(some.map { prepare(it, role) }, role) }
    }

    /**
     * Embed a query of words, of a photo, or of both in one vector ("this room, but at night"): in one pass of the model where
     * the bundle can, else as a weighted sum.
     *
     * @throws MagicError `argument_invalid` when both are missing; else as [embedText] and [embedImage].
     */
    @JvmOverloads
    public fun embedQuery(text: String? = null, image: RgbImage? = null, truncate: Boolean = false): FloatArray = when {
        text != null && image != null -> {
            val role = if (COMPOSED in bundle.manifest.roles) COMPOSED else "photo"
            encoder.encodeComposed(text, prepare(image, role), roleOf(role), truncate)
        }

        image != null -> embedImage(image)

        text != null -> embedText(text, truncate = truncate)

        else -> throw MagicError(
            ErrorCode.ARGUMENT_INVALID,
            "The query has neither text nor image.",
            "Give one of them.",
        )
    }

    /** Resize one photo without the model; may run in any thread, ahead of [embedPixels]. */
    @JvmOverloads
    public fun prepare(image: RgbImage, role: String = "photo"): Pixels = encoder.prepare(image, roleOf(role))

    /** Embed photos that [prepare] made ready, one vector each; see [embedImage]. */
    @JvmOverloads
    public fun embedPixels(pixels: List<Pixels>, role: String = "photo"): List<FloatArray> {
        val found = roleOf(role)
        return if (pixels.isEmpty()) emptyList() else encoder.encodeImages(pixels, found)
    }

    /** The ids that the model reads for a text, those of the role around it included; throws as [embedText]. */
    @JvmOverloads
    public fun tokenIds(text: String, role: String = "query"): List<Int> = encoder.tokenIds(text, roleOf(role))

    /** Give back the memory of the graphs that only photos need, alone or with words, after what is under way. */
    public fun releaseImages(): Unit = encoder.releaseImages()

    /** Give back the memory of all graphs, after what is under way; the next call loads what it needs again. */
    public fun release(): Unit = encoder.release()

    /** The same as [release], for `use`. */
    override fun close(): Unit = release()

    private fun roleOf(name: String): Role {
        val roles = bundle.manifest.roles
        return roles[name] ?: throw MagicError(
            ErrorCode.ARGUMENT_INVALID,
            "${bundle.manifest.id} has no role '$name'.",
            "Use one of ${roles.keys.sorted().joinToString()}.",
        )
    }

    public companion object {
        private const val CHUNK = 16

        /**
         * An embedder for a bundle; its graphs load on first use.
         *
         * @param bundle An opened bundle.
         * @param sessions What runs the graphs, for example `OrtSessions()`.
         */
        @JvmStatic
        public fun open(bundle: Bundle, sessions: SessionFactory): Embedder =
            Embedder(bundle, makeEncoder(bundle, sessions))
    }
}
