package dev.magicmm

import java.nio.file.Path

/** Returns the bounds of all URIs below a folder's ("/" is followed by "0" in ASCII): faster than LIKE. */
internal fun uriRange(folderUri: String): Array<String> = arrayOf(folderUri, folderUri.dropLast(1) + "0")

/** The longest vector that an index may hold. */
internal const val MAX_DIM: Int = 1 shl 14

/**
 * An open index file: SQLite is the only truth about photos and vectors (docs/FORMAT.md, part 4). Photos and vectors
 * are read and written by the functions of `IndexPhotos.kt` and `IndexVectors.kt`.
 *
 * Readers never wait for a sync (write-ahead log); every write happens inside [transaction], all of it or nothing.
 * One thread at a time; open the file again for another thread or process.
 *
 * @property path The file.
 */
@MagicInternals
public class Index(public val path: Path, driver: DatabaseDriver, create: Boolean = false) : AutoCloseable {
    internal val database: Database = connect(driver, path, create)

    /** Closes the file; what was committed is on disk. */
    override fun close(): Unit = database.close()

    /** Commits all writes made in [work], or none of them. */
    public fun <T> transaction(work: () -> T): T = translatedErrors(path) {
        database.begin(isWriting = true)
        try {
            val result = work()
            database.commit()
            result
        } catch (error: Throwable) {
            rollback()
            throw error
        }
    }

    /** Lets all reads in [work] see one state, whatever another process commits meanwhile. May be nested. */
    public fun <T> snapshot(work: () -> T): T = translatedErrors(path) {
        if (database.isInTransaction) return@translatedErrors work()
        database.begin(isWriting = false)
        try {
            work()
        } finally {
            rollback()
        }
    }

    private fun rollback() {
        if (database.isInTransaction) database.rollback()
    }

    // -- facts about the whole --------------------------------------------------------------------------------------

    /** Returns a fact by key ("" when it was never set). */
    public fun meta(key: String): String =
        row("SELECT value FROM meta WHERE key = ?", key)?.get(0)?.toString().orEmpty()

    /** Returns a fact that is a whole number (0 when it was never set). */
    public fun metaNumber(key: String): Long {
        val text = meta(key)
        val number = if (text.isEmpty()) 0L else text.toLongOrNull()
        return number?.takeIf { it >= 0 } ?: throw corrupt(path, "meta.$key is no number")
    }

    /** Returns a fact that is a positive number (0 when it was never set, or is none). */
    public fun metaRate(key: String): Double =
        meta(key).toDoubleOrNull()?.takeIf { it > 0 && it <= Double.MAX_VALUE } ?: 0.0

    /** Keeps a fact. */
    public fun setMeta(key: String, value: Any) {
        write("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", key, value.toString())
    }

    /** Tells readers that vectors have changed; part of every transaction that changes them. */
    public fun bumpGeneration(): Unit = setMeta("generation", metaNumber("generation") + 1)

    // -- models -----------------------------------------------------------------------------------------------------

    /** Returns the active model first, then the one that a rebuild is filling, if any. */
    public fun models(): List<Model> =
        rows("SELECT id, fingerprint, name, dim, is_active FROM model ORDER BY is_active DESC, id").map(::modelOf)

    /** Returns the model whose vectors answer searches; null in an index that holds none yet. */
    public fun activeModel(): Model? = models().firstOrNull { it.isActive }

    /** Registers a model. */
    public fun addModel(fingerprint: String, name: String, dim: Int, isActive: Boolean): Model {
        val key = write(
            "INSERT INTO model (fingerprint, name, dim, is_active) VALUES (?, ?, ?, ?)",
            fingerprint,
            name,
            dim,
            if (isActive) 1 else 0,
        )
        return Model(key, fingerprint, name, dim, isActive)
    }

    /** Lets [model] answer searches from now on and forgets every other model with its vectors. */
    public fun activateModel(model: Model) {
        write("DELETE FROM vector WHERE model_id != ?", model.id)
        write("DELETE FROM model WHERE id != ?", model.id)
        write("UPDATE model SET is_active = 1 WHERE id = ?", model.id)
        bumpGeneration()
        // A scan file of before is of no use, even one of the same bundle: it ends amid the new model's vectors.
        setMeta("compacted", metaNumber("generation"))
    }

    /** Forgets a model with its vectors. */
    public fun dropModel(model: Model) {
        write("DELETE FROM vector WHERE model_id = ?", model.id)
        write("DELETE FROM model WHERE id = ?", model.id)
    }

    private fun modelOf(row: Array<Any?>): Model {
        val (key, fingerprint, name, dim) = row
        val isHex = fingerprint is String && fingerprint.length == 64 && fingerprint.all { it in HEX_DIGITS }
        if (key is Long && isHex && dim is Long && dim in 1..MAX_DIM) {
            return Model(key, fingerprint, name.toString(), dim.toInt(), isTrue(row[4]))
        }
        throw corrupt(path, "the table of models makes no sense")
    }

    private fun isTrue(value: Any?): Boolean = value != null && value != 0L && value != ""

    // -- sources ----------------------------------------------------------------------------------------------------

    /** Returns the URIs of the known sources. */
    public fun sources(): List<String> = rows("SELECT uri FROM source ORDER BY uri").map { it[0].toString() }

    /** Remembers a source; one inside it is now part of it. */
    public fun addSource(uri: String) {
        write("INSERT OR IGNORE INTO source (uri) VALUES (?)", uri)
        write("DELETE FROM source WHERE uri > ? AND uri < ?", *uriRange(uri))
    }

    /** Forgets a source with its photos and their vectors. */
    public fun removeSource(uri: String) {
        write("DELETE FROM source WHERE uri = ?", uri)
        write("DELETE FROM photo WHERE uri >= ? AND uri < ?", *uriRange(uri))
        bumpGeneration()
    }

    // -- checks -----------------------------------------------------------------------------------------------------

    /** Lets SQLite read every page; returns what it finds wrong (nothing = sound). */
    public fun checkIntegrity(): List<String> =
        rows("PRAGMA integrity_check").map { it[0].toString() }.filterNot { it == "ok" }

    internal fun row(sql: String, vararg values: Any?): Array<Any?>? = rows(sql, *values).firstOrNull()

    internal fun rows(sql: String, vararg values: Any?): List<Array<Any?>> {
        val found = ArrayList<Array<Any?>>()
        translatedErrors(path) {
            database.query(sql, *values) { row -> found += Array(row.size) { row.value(it) } }
        }
        return found
    }

    internal fun write(sql: String, vararg values: Any?): Long =
        translatedErrors(path) { database.execute(sql, *values) }

    // Drivers put U+FFFD in place of bytes that are no text.
    internal fun uri(value: Any?): String =
        (value as? String)?.takeUnless { '\uFFFD' in it } ?: throw corrupt(path, "a photo has no URI")

    internal fun reasonOf(value: Any?): SkipReason =
        SkipReason.values().find { it.value == value } ?: throw corrupt(path, "it holds an unknown skip reason")

    private companion object {
        const val HEX_DIGITS = "0123456789abcdefABCDEF"
    }
}
