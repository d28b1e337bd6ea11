package dev.magicmm

/** One JSON object of the manifest, read key by key with errors that say where. */
internal class ManifestSection(value: Any?, val name: String) {
    val value: Map<String, Any?>

    init {
        if (value !is Map<*, *>) throw bundleInvalid("$name must be an object, got ${shown(value)}.")
        @Suppress("UNCHECKED_CAST") // Json gives no other kind of map
        this.value = value as Map<String, Any?>
    }

    fun text(key: String): String = value[key] as? String ?: throw wrongKind(key, "a text")

    /** A whole number that every language holds exactly. */
    fun int(key: String): Long = asInt(value[key]) ?: throw wrongKind(key, "a whole number")

    fun number(key: String): Double {
        val number = (value[key] as? Number)?.toDouble()
        return number?.takeIf { Math.abs(it) < MOST_MAGNITUDE } ?: throw wrongKind(key, "a number")
    }

    fun within(key: String, least: Double, most: Double = Double.POSITIVE_INFINITY): Double {
        val number = number(key)
        if (number !in least..most) throw bundleInvalid("$name.$key must be $least to $most, got $number.")
        return number
    }

    fun texts(key: String): List<String> = list(key).map { it as? String ?: throw wrongKind(key, "a list of texts") }

    /** Token ids. */
    fun ids(key: String): List<Int> = list(key).map { item ->
        val id = asInt(item) ?: throw wrongKind(key, "a list of whole numbers")
        if (id !in 0..MOST_COUNT) throw bundleInvalid("$name.$key holds $id, which is no token id.")
        id.toInt()
    }

    fun count(key: String, most: Long = MOST_COUNT, least: Long = 1): Int {
        val number = int(key)
        if (number !in least..most) throw bundleInvalid("$name.$key must be $least to $most, got $number.")
        return number.toInt()
    }

    fun choice(key: String, choices: List<String>): String {
        val chosen = text(key)
        if (chosen in choices) return chosen
        throw bundleInvalid("$name.$key must be one of ${choices.joinToString()}, got '$chosen'.")
    }

    fun section(key: String): ManifestSection = ManifestSection(value[key], "$name.$key")

    fun sections(key: String): Map<String, ManifestSection> {
        val inner = section(key)
        return inner.value.keys.associateWith { inner.section(it) }
    }

    private fun list(key: String): List<Any?> = value[key] as? List<*> ?: throw wrongKind(key, "a list")

    private fun asInt(item: Any?): Long? = (item as? Long)?.takeIf { Math.abs(it) < MOST_EXACT }

    private fun wrongKind(key: String, kind: String): MagicError =
        bundleInvalid("$name.$key must be $kind, got ${shown(value[key])}.")

    private fun shown(item: Any?): String = item.toString().take(60)

    private companion object {
        const val MOST_COUNT = (1L shl 31) - 1
        const val MOST_EXACT = 1L shl 53
        const val MOST_MAGNITUDE = 1e9
    }
}
