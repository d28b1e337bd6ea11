package dev.magicmm

/** An `image` graph and a `text` graph that share a space; photo + text is their weighted sum. */
internal class DualEncoder(private val parts: Parts) : Encoder {
    private val manifest = parts.manifest

    override fun prepare(rgb: RgbImage, role: Role): Pixels = renderViews(rgb, manifest.image)

    /** Run the image graph on all views of all photos at once. */
    override fun encodeImages(pixels: List<Pixels>, role: Role): List<FloatArray> {
        val output = parts.run("image", mapOf("pixels" to pixelTensor(pixels)))
        return unitVectors(output, pixels.size, manifest.dim, "image")
    }

    /** Run the text graph on head + text + tail. */
    override fun encodeText(text: String, role: Role, truncate: Boolean): FloatArray {
        val ids = parts.tokenIds(text, role, truncate)
        val shape = listOf(1, ids.size)
        val row = Tensor.Longs(shape, LongArray(ids.size) { ids[it].toLong() })
        val mask = Tensor.Longs(shape, LongArray(ids.size) { 1 })
        return unitVectors(parts.run("text", mapOf("ids" to row, "mask" to mask)), 1, manifest.dim, "text").first()
    }

    /** Text weight x text + photo (late fusion). */
    override fun encodeComposed(text: String, pixels: Pixels, role: Role, truncate: Boolean): FloatArray {
        val weight = checkNotNull(manifest.composedTextWeight) { "every dual encoder has one" }.toFloat()
        val words = encodeText(text, manifest.roles.getValue("query"), truncate)
        val photo = encodeImages(listOf(pixels), manifest.roles.getValue("photo")).first()
        return unit(FloatArray(manifest.dim) { weight * words[it] + photo[it] }, "image and text")
    }

    override fun tokenIds(text: String, role: Role): List<Int> = parts.tokenIds(text, role, truncate = false)

    override fun releaseImages(): Unit = parts.release("image")

    override fun release(): Unit = parts.release()
}

/** All pictures of all photos, one behind the other: uint8 [n, side, side, 3]. */
internal fun pixelTensor(pixels: List<Pixels>): Tensor.Bytes {
    val side = pixels.first().side
    if (pixels.any { it.side != side }) {
        throw MagicError(
            ErrorCode.ARGUMENT_INVALID,
            "Photos of different sides cannot be embedded together.",
            "Pass what Embedder.prepare gave.",
        )
    }
    val shape = listOf(pixels.sumOf { it.count }, side, side, 3)
    if (pixels.size == 1) return Tensor.Bytes(shape, pixels.first().data)
    val data = ByteArray(pixels.sumOf { it.data.size })
    var at = 0
    for (photo in pixels) {
        System.arraycopy(photo.data, 0, data, at, photo.data.size)
        at += photo.data.size
    }
    return Tensor.Bytes(shape, data)
}
