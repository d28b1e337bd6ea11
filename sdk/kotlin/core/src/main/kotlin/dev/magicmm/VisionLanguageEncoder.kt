package dev.magicmm

/** A `vision` graph, a token table on disk and one `language` graph that reads photo and text together. */
internal class VisionLanguageEncoder(private val parts: Parts) : Encoder {
    private val manifest = parts.manifest
    private val spec = checkNotNull(manifest.tokens) { "every vision_language manifest has a token table" }
    private val loading = Any()
    private var table: TokenRows? = null
    private val prefixes = HashMap<String, Map<String, Tensor.Floats>>()

    /** One tile, or the tiles and thumbnail of a document. */
    override fun prepare(rgb: RgbImage, role: Role): Pixels = if (role.maxTiles ==
        1
    ) {
        renderViews(rgb, manifest.image)
    } else {
        renderTiles(rgb, manifest.image.side, role.maxTiles)
    }

    /** Run vision on each photo's tiles, then language on photos of equal length together. */
    override fun encodeImages(pixels: List<Pixels>, role: Role): List<FloatArray> {
        val sequences = pixels.map { sequence(role, visual(it), emptyList()) }
        val vectors = arrayOfNulls<FloatArray>(pixels.size)
        for (places in sequences.indices.groupBy { sequences[it].size }.values) {
            val found = language(places.map { sequences[it] }, role)
            places.forEachIndexed { row, place -> vectors[place] = found[row] }
        }
        return vectors.map { checkNotNull(it) }
    }

    /** Run language on the role's ids around the text. */
    override fun encodeText(text: String, role: Role, truncate: Boolean): FloatArray {
        val ids = parts.textIds(text, role, role.head.size + role.tail.size, truncate)
        return language(listOf(sequence(role, null, ids)), role).first()
    }

    /** Run photo and text through the language model in one pass. */
    override fun encodeComposed(text: String, pixels: Pixels, role: Role, truncate: Boolean): FloatArray {
        val visual = visual(pixels)
        val constant = role.head.size + role.imageBefore.size + role.imageAfter.size + role.tail.size
        val ids = parts.textIds(text, role, constant + visual.size / spec.dim, truncate)
        return language(listOf(sequence(role, visual, ids)), role).first()
    }

    override fun tokenIds(text: String, role: Role): List<Int> = parts.tokenIds(text, role, truncate = false)

    /** Also unmap the token table and drop the prefixes. */
    override fun releaseImages(): Unit = parts.release(listOf("vision"))

    override fun release() {
        parts.release()
        synchronized(loading) {
            table = null
            prefixes.clear()
        }
    }

    /** The visual tokens of all tiles, one behind the other: v x D numbers. */
    private fun visual(tiles: Pixels): FloatArray {
        val output = parts.run("vision", mapOf("pixels" to pixelTensor(listOf(tiles))))
        val shape = output.shape
        if (shape.size != 3 || shape[0] != tiles.count || shape[2] != spec.dim) {
            throw MagicError(ErrorCode.RUNTIME_FAILED, "The vision graph gave $shape.", "Verify the bundle.")
        }
        return output.values
    }

    /** Token rows and visual tokens side by side: s x D numbers. */
    private fun sequence(role: Role, visual: FloatArray?, textIds: List<Int>): FloatArray {
        val head = if (role.prefix == null) role.head else emptyList()
        if (visual == null) return rows(head + textIds + role.tail)
        return rows(head + role.imageBefore) + visual + rows(role.imageAfter + textIds + role.tail)
    }

    /** Run language on sequences of one length. */
    private fun language(sequences: List<FloatArray>, role: Role): List<FloatArray> {
        val count = sequences.size
        val size = sequences.first().size
        val embeds = FloatArray(count * size)
        sequences.forEachIndexed { row, sequence -> System.arraycopy(sequence, 0, embeds, row * size, size) }
        val last = LongArray(count) { size / spec.dim - 1L }
        val inputs =
            mapOf(
                "embeds" to Tensor.Floats(listOf(count, size / spec.dim, spec.dim), embeds),
                "last" to Tensor.Longs(listOf(count), last),
            )
        return unitVectors(parts.run("language", inputs + prefixOf(role)), count, manifest.dim, "language")
    }

    private fun rows(ids: List<Int>): FloatArray =
        synchronized(loading) { table ?: TokenRows(parts.bundle.file(spec.file), spec).also { table = it } }.of(ids)

    /** The role's keys and values; the tensors of the file are named as the graph's inputs. */
    private fun prefixOf(role: Role): Map<String, Tensor.Floats> {
        if (role.prefix != null) return prefix(role.prefix)
        // Length 0, in the shape that some role's prefix file shows.
        val shown = manifest.roles.values.firstNotNullOfOrNull { it.prefix } ?: return emptyMap()
        return prefix(shown).mapValues { (_, tensor) -> Tensor.Floats(withoutLength(tensor.shape), FloatArray(0)) }
    }

    private fun prefix(name: String): Map<String, Tensor.Floats> = synchronized(loading) {
        prefixes.getOrPut(name) {
            val file = Safetensors(parts.bundle.file(name))
            for ((tensor, entry) in file.entries) {
                if (entry.shape.size < 2) throw bundleInvalid("$name holds $tensor as ${entry.shape}.")
            }
            file.entries.keys.associateWith { file.floats(it) }
        }
    }

    private fun withoutLength(shape: List<Int>): List<Int> =
        shape.mapIndexed { axis, size -> if (axis == shape.size - 2) 0 else size }
}
