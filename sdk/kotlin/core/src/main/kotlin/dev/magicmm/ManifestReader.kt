package dev.magicmm

private const val FORMAT = "magicmm-bundle"
private const val FORMAT_VERSION = 1L
private const val MOST_DIM = 1L shl 14
private const val MOST_SIDE = 4096L
private const val MOST_TILES = 40L
private const val HASH_DIGITS = 64
private val VIEWS = listOf("crop", "squash")

/**
 * Read and check the text of a `manifest.json`.
 *
 * @throws MagicError `bundle_too_new` for a later format, `bundle_invalid` for anything else that is wrong.
 */
internal fun parseManifest(text: String): Manifest {
    val raw =
        try {
            Json.parse(text)
        } catch (error: JsonError) {
            throw bundleInvalid("manifest.json is not JSON: ${error.message}.")
        }
    val top = ManifestSection(raw, "manifest")
    if (top.text("format") != FORMAT) {
        throw bundleInvalid("manifest.json says format '${top.text("format")}', not '$FORMAT'.")
    }
    val version = top.int("format_version")
    if (version > FORMAT_VERSION) {
        throw MagicError(
            ErrorCode.BUNDLE_TOO_NEW,
            "The bundle has format version $version, this SDK reads up to $FORMAT_VERSION.",
            "Update the app, or the magicmm library in it.",
        )
    }
    if (version < 1) throw bundleInvalid("manifest.json says format_version $version.")
    return manifest(top)
}

private fun manifest(top: ManifestSection): Manifest {
    val architecture = top.choice("architecture", listOf(DUAL_ENCODER, VISION_LANGUAGE))
    val isDual = architecture == DUAL_ENCODER
    val files = top.sections("files").map { (name, entry) -> inside(name) to fileEntry(entry) }.toMap()
    val graphs = filesByPart(top, "graphs", files)
    val parts = partsOf(architecture, graphs)
    checkGraphs(graphs, architecture, parts)
    val packed = packed(top, graphs, files)
    val alternatives = alternatives(top, parts, files)
    val isFusedLate = isDual && COMPOSED !in parts
    val roles = roles(top, isFusedLate, files)
    val hasWeight = isFusedLate || (isDual && COMPOSED in top.value)
    return Manifest(
        id = top.text("id"),
        architecture = architecture,
        dim = top.count("dim", MOST_DIM),
        weights = top.text("weights"),
        image = imageSpec(top.section("image")),
        text = textSpec(top.section("text"), files),
        tokens = if (isDual) null else tokenTable(top.section("tokens"), files),
        roles = roles,
        composedTextWeight = if (hasWeight) top.section(COMPOSED).number("text_weight") else null,
        graphs = graphs,
        packed = packed,
        alternatives = alternatives,
        quantisation = top.section("quantisation").value.mapValues { (_, scheme) -> scheme.toString() },
        golden = listed(files, top.text("golden")),
        files = files,
        confidence = if ("confidence" in top.value) confidenceSpec(top.section("confidence")) else null,
        raw = top.value,
    )
}

/** The parts that every runtime must have; when one has the optional `composed`, all must. */
private fun partsOf(architecture: String, graphs: Map<String, Map<String, String>>): Set<String> = when {
    architecture != DUAL_ENCODER -> setOf("vision", "language")
    graphs.values.any { COMPOSED in it } -> setOf("image", "text", COMPOSED)
    else -> setOf("image", "text")
}

private fun checkGraphs(graphs: Map<String, Map<String, String>>, architecture: String, parts: Set<String>) {
    for ((runtime, given) in graphs) {
        val missing = (parts - given.keys).sorted()
        if (missing.isNotEmpty()) {
            throw bundleInvalid("graphs.$runtime of this $architecture bundle lacks ${missing.joinToString()}.")
        }
    }
}

private fun packed(
    top: ManifestSection,
    graphs: Map<String, Map<String, String>>,
    files: Map<String, FileEntry>,
): Map<String, Map<String, String>> {
    val packed = if ("packed" in top.value) filesByPart(top, "packed", files) else emptyMap()
    for ((runtime, given) in packed) {
        val unknown = (given.keys - graphs[runtime].orEmpty().keys).sorted()
        if (unknown.isNotEmpty()) {
            throw bundleInvalid("packed.$runtime names ${unknown.joinToString()}, which graphs does not.")
        }
    }
    return packed
}

private fun alternatives(
    top: ManifestSection,
    parts: Set<String>,
    files: Map<String, FileEntry>,
): Map<String, Map<String, String>> {
    val alternatives = if ("alternatives" in top.value) filesByPart(top, "alternatives", files) else emptyMap()
    for ((runtime, given) in alternatives) {
        val unknown = (given.keys - parts).sorted()
        if (unknown.isNotEmpty()) {
            throw bundleInvalid("alternatives.$runtime names ${unknown.joinToString()}, which is no part.")
        }
    }
    return alternatives
}

/** Runtime -> part -> file. */
private fun filesByPart(
    top: ManifestSection,
    key: String,
    files: Map<String, FileEntry>,
): Map<String, Map<String, String>> =
    top.sections(key).mapValues { (_, entry) -> entry.value.keys.associateWith { listed(files, entry.text(it)) } }

private fun roles(top: ManifestSection, isFusedLate: Boolean, files: Map<String, FileEntry>): Map<String, Role> {
    val roles = top.sections("roles").mapValues { (_, entry) -> role(entry, files) }
    val missing = setOf("photo", "query") - roles.keys
    if (missing.isNotEmpty()) throw bundleInvalid("roles lacks ${missing.joinToString()}.")
    if (!isFusedLate && COMPOSED !in roles) throw bundleInvalid("roles lacks $COMPOSED.")
    return roles
}

private fun role(entry: ManifestSection, files: Map<String, FileEntry>): Role {
    val text = entry.text("text")
    if (text.split("{text}").size != 2) throw bundleInvalid("${entry.name}.text must hold {text} once, got '$text'.")
    return Role(
        head = entry.ids("head"),
        imageBefore = entry.ids("image_before"),
        imageAfter = entry.ids("image_after"),
        text = text,
        tail = entry.ids("tail"),
        prefix = if (entry.value["prefix"] == null) null else listed(files, entry.text("prefix")),
        maxTiles = entry.count("max_tiles", MOST_TILES),
    )
}

private fun fileEntry(entry: ManifestSection): FileEntry {
    val digest = entry.text("sha256")
    if (digest.length != HASH_DIGITS || digest.any { it !in '0'..'9' && it !in 'a'..'f' }) {
        throw bundleInvalid("${entry.name}.sha256 is not $HASH_DIGITS hex digits.")
    }
    val size = entry.int("bytes")
    if (size < 0) throw bundleInvalid("${entry.name}.bytes is negative.")
    return FileEntry(size, digest)
}

private fun imageSpec(entry: ManifestSection): ImageSpec {
    val views = entry.texts("views")
    if (views.isEmpty() || !VIEWS.containsAll(views)) {
        throw bundleInvalid("${entry.name}.views must name some of ${VIEWS.joinToString()}, got $views.")
    }
    entry.choice("resample", listOf("bicubic"))
    return ImageSpec(entry.count("side", MOST_SIDE), views)
}

private fun textSpec(entry: ManifestSection, files: Map<String, FileEntry>): TextSpec {
    val padId = entry.count("pad_id", least = 0)
    return TextSpec(listed(files, entry.text("tokenizer")), entry.count("max_tokens"), padId)
}

private fun tokenTable(entry: ManifestSection, files: Map<String, FileEntry>): TokenTable {
    val table = TokenTable(listed(files, entry.text("file")), entry.count("rows"), entry.count("dim", MOST_DIM))
    val bytes = files.getValue(table.file).bytes
    if (bytes != tokenTableBytes(table)) {
        throw bundleInvalid("${table.file} has $bytes bytes, not those of ${table.rows} x ${table.dim}.")
    }
    return table
}

private fun confidenceSpec(entry: ManifestSection): ConfidenceSpec = ConfidenceSpec(
    quantile = entry.within("quantile", 0.0, 1.0),
    intercept = entry.number("intercept"),
    excess = entry.within("excess", 0.0),
    logPhotos = entry.number("log_photos"),
    leastPhotos = entry.count("least_photos", least = 2),
    threshold = entry.within("threshold", 0.0, 1.0),
)

/** Where the scales of a `tokens.bin` begin: behind the rows, at a multiple of 64. */
internal fun tokenScalesOffset(table: TokenTable): Long = (table.rows.toLong() * table.dim + 63) / 64 * 64

private fun tokenTableBytes(table: TokenTable): Long = tokenScalesOffset(table) + 4L * table.rows

/** A plain relative ASCII name: no way out of the folder, and the same file on every system. */
private fun inside(name: String): String {
    if (!name.split('/').all(::isPlain)) {
        throw bundleInvalid("files names '$name', which is not a plain path inside the bundle.")
    }
    return name
}

private fun isPlain(part: String): Boolean =
    part.isNotEmpty() && isWord(part[0]) && part.all { isWord(it) || it == '.' || it == '+' || it == '-' }

private fun isWord(char: Char): Boolean = char in 'A'..'Z' || char in 'a'..'z' || char in '0'..'9' || char == '_'

private fun listed(files: Map<String, FileEntry>, name: String): String {
    if (name !in files) throw bundleInvalid("The manifest uses '$name' but does not list it under files.")
    return name
}
