package dev.magicmm

/**
 * An `image` graph and a `text` graph that share a space. Photo + text go through a `composed` graph where there is
 * one, and the text's vector may be added; else they are a weighted sum.
 */
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
        val output = parts.run("text", sequence(parts.tokenIds(text, role, truncate)))
        return unitVectors(output, 1, manifest.dim, "text").first()
    }

    /** Text weight x text + what the composed graph says of both, or, without that graph, the photo. */
    override fun encodeComposed(text: String, pixels: Pixels, role: Role, truncate: Boolean): FloatArray {
        val seen = if (manifest.hasComposedGraph) {
            compose(text, pixels, role, truncate)
        } else {
            encodeImages(listOf(pixels), manifest.roles.getValue("photo")).first()
        }
        val weight = manifest.composedTextWeight?.toFloat() ?: return seen
        val words = encodeText(text, manifest.roles.getValue("query"), truncate)
        return unit(FloatArray(manifest.dim) { weight * words[it] + seen[it] }, "image and text")
    }

    private fun compose(text: String, pixels: Pixels, role: Role, truncate: Boolean): FloatArray {
        val before = role.head + role.imageBefore + role.imageAfter
        val ids = before + parts.textIds(text, role, before.size + role.tail.size, truncate) + role.tail
        val visual = parts.run("image", mapOf("pixels" to pixelTensor(listOf(pixels))), "visual")
        if (visual.shape.size != 3 || visual.shape[0] != 1) {
            throw MagicError(
                ErrorCode.RUNTIME_FAILED,
                "The image graph gave visual tokens ${visual.shape}.",
                "Verify the bundle.",
            )
        }
        val output = parts.run(COMPOSED, sequence(ids) + ("visual" to visual))
        return unitVectors(output, 1, manifest.dim, COMPOSED).first()
    }

    /** `ids` and `mask` of one row without fill. */
    private fun sequence(ids: List<Int>): Map<String, Tensor> {
        val shape = listOf(1, ids.size)
        val row = Tensor.Longs(shape, LongArray(ids.size) { ids[it].toLong() })
        return mapOf("ids" to row, "mask" to Tensor.Longs(shape, LongArray(ids.size) { 1 }))
    }

    override fun tokenIds(text: String, role: Role): List<Int> = parts.tokenIds(text, role, truncate = false)

    override fun releaseImages(): Unit = parts.release(listOf("image", COMPOSED))

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
