package dev.magicmm

// The tables `concept` and `example`, which exist once something was taught.

// Examples name their model by fingerprint and not by its row: they outlive a rebuild that cannot renew them.
private val CONCEPT_TABLES = listOf(
    "CREATE TABLE IF NOT EXISTS concept (id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE," +
        " name TEXT NOT NULL, noun TEXT)",
    "CREATE TABLE IF NOT EXISTS example (concept_id INTEGER NOT NULL REFERENCES concept (id) ON DELETE CASCADE," +
        " hash BLOB NOT NULL, uri TEXT, fingerprint TEXT NOT NULL, scale REAL NOT NULL, codes BLOB NOT NULL," +
        " PRIMARY KEY (concept_id, hash))",
)

/** A row of the table `concept`. */
internal class KnownConcept(val id: Long, val name: String, val noun: String?)

/** One photo that a concept was taught by: a row of the table `example`. */
internal class Example(val hash: ContentHash, val uri: String?, val fingerprint: String, val vector: Quantised)

/** Returns all concepts by the folded words of their name. */
internal fun Index.concepts(): Map<List<String>, KnownConcept> {
    if (rows("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'concept'").isEmpty()) return emptyMap()
    return rows("SELECT id, name, noun FROM concept ORDER BY key").map { (id, name, noun) ->
        if (id !is Long || name !is String || noun !is String?) {
            throw corrupt(path, "the table of concepts makes no sense")
        }
        KnownConcept(id, name, noun)
    }.associateBy { nameKey(it.name) }
}

/** Adds a concept, or gives a known one this spelling and noun. */
internal fun Index.putConcept(name: String, noun: String?): KnownConcept {
    CONCEPT_TABLES.forEach { write(it) }
    val key = nameKey(name).joinToString(" ")
    write("INSERT OR IGNORE INTO concept (key, name) VALUES (?, ?)", key, name)
    write("UPDATE concept SET name = ?, noun = ? WHERE key = ?", name, noun, key)
    val id = row("SELECT id FROM concept WHERE key = ?", key)?.get(0) as Long
    return KnownConcept(id, name, noun)
}

/** Deletes a concept with its examples. */
internal fun Index.removeConcept(concept: KnownConcept) {
    write("DELETE FROM concept WHERE id = ?", concept.id)
}

/** Deletes the examples of a concept. */
internal fun Index.clearExamples(concept: KnownConcept) {
    write("DELETE FROM example WHERE concept_id = ?", concept.id)
}

/** Adds an example; the same photo again takes the place of the old one. */
internal fun Index.putExample(concept: KnownConcept, example: Example) {
    val key = arrayOf<Any?>(concept.id, example.hash.bytes)
    val vector = example.vector
    val values = arrayOf<Any?>(example.uri, example.fingerprint, vector.scale.toDouble(), vector.codes)
    // An updated row keeps its place among the examples; INSERT OR REPLACE would make it the last.
    write(
        "INSERT OR IGNORE INTO example (concept_id, hash, uri, fingerprint, scale, codes) VALUES (?, ?, ?, ?, ?, ?)",
        *key,
        *values,
    )
    write(
        "UPDATE example SET uri = ?, fingerprint = ?, scale = ?, codes = ? WHERE concept_id = ? AND hash = ?",
        *values,
        *key,
    )
}

/** Returns the examples of a concept, oldest first, whatever model their vectors are of. */
internal fun Index.examples(concept: KnownConcept): List<Example> = rows(
    "SELECT hash, uri, fingerprint, scale, codes FROM example WHERE concept_id = ? ORDER BY rowid",
    concept.id,
).map { (hash, uri, fingerprint, scale, codes) ->
    val isPlaced = hash is ByteArray && uri is String? && fingerprint is String
    if (!isPlaced || scale !is Double || !(scale > 0 && scale <= 1) || codes !is ByteArray) {
        throw corrupt(path, "the table of examples makes no sense")
    }
    Example(ContentHash(hash), uri, fingerprint, Quantised(codes, scale.toFloat()))
}

/** Says what is known of a concept; [fingerprint] is that of the index's model. */
internal fun Index.describe(concept: KnownConcept, fingerprint: String?): Concept {
    val examples = examples(concept)
    val usable = examples.count { it.fingerprint == fingerprint }
    return Concept(concept.name, concept.noun, usable, examples.size - usable, examples.mapNotNull { it.uri })
}
