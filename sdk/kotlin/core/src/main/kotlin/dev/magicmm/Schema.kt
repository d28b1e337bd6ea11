package dev.magicmm

import java.io.IOException
import java.nio.ByteBuffer
import java.nio.channels.ClosedByInterruptException
import java.nio.file.FileSystemException
import java.nio.file.Files
import java.nio.file.Path
import java.util.UUID

// The SQLite file: its tables, its version, and how its errors become ours (docs/FORMAT.md, part 4).

private const val APPLICATION_ID = 0x4D4D4958L // "MMIX"
private const val INDEX_VERSION = 1L
private const val BUSY_MILLIS = 30_000
private const val HEADER_BYTES = 100

// Plain SQL of 2017 (SQLite 3.18), so that the same file opens on Android 8.
private val TABLES = listOf(
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE model (id INTEGER PRIMARY KEY, fingerprint TEXT NOT NULL, name TEXT NOT NULL," +
        " dim INTEGER NOT NULL, is_active INTEGER NOT NULL UNIQUE)",
    "CREATE TABLE source (uri TEXT PRIMARY KEY) WITHOUT ROWID",
    "CREATE TABLE photo (id INTEGER PRIMARY KEY AUTOINCREMENT, uri TEXT NOT NULL UNIQUE, bytes INTEGER NOT NULL," +
        " modified INTEGER NOT NULL, hash BLOB, taken REAL, latitude REAL, longitude REAL, width INTEGER," +
        " height INTEGER, reason TEXT, detail TEXT)",
    "CREATE INDEX photo_hash ON photo (hash)",
    "CREATE TABLE vector (seq INTEGER PRIMARY KEY AUTOINCREMENT," +
        " photo_id INTEGER NOT NULL REFERENCES photo (id) ON DELETE CASCADE," +
        " model_id INTEGER NOT NULL REFERENCES model (id), scale REAL NOT NULL, codes BLOB NOT NULL," +
        " UNIQUE (photo_id, model_id))",
    "CREATE TABLE removed (seq INTEGER PRIMARY KEY)",
    "CREATE TRIGGER vector_removed AFTER DELETE ON vector BEGIN INSERT INTO removed (seq) VALUES (old.seq); END",
)

/** Opens an index file in autocommit mode, with the write-ahead log on. */
internal fun connect(driver: DatabaseDriver, path: Path, create: Boolean): Database {
    if (!create && !Files.exists(path)) {
        throw MagicError(
            ErrorCode.SOURCE_UNAVAILABLE,
            "There is no index at $path yet.",
            "Open the gallery with sources and sync it.",
        )
    }
    return translatedErrors(path) {
        path.toAbsolutePath().parent?.let(Files::createDirectories)
        refuseForeign(path)
        val database = driver.open(path, BUSY_MILLIS)
        try {
            if (isEmpty(database)) createTables(database)
            checkVersion(database, path)
            logAhead(database)
            // Deleted vectors are overwritten: a removed photo leaves nothing behind in the file.
            for (pragma in listOf("foreign_keys = ON", "secure_delete = ON", "synchronous = FULL")) {
                database.query("PRAGMA $pragma") {}
            }
            database
        } catch (error: Throwable) {
            database.close()
            throw error
        }
    }
}

/** Looks at another program's file without SQLite, which would clean up after that program. */
private fun refuseForeign(path: Path) {
    if (!Files.exists(path)) return
    val header = ByteBuffer.allocate(HEADER_BYTES)
    Files.newByteChannel(path).use { channel ->
        while (header.hasRemaining()) if (channel.read(header) < 0) break
    }
    if (header.position() == 0) return
    val magic = "SQLite format 3\u0000".toByteArray()
    if (header.hasRemaining() || !header.array().copyOf(magic.size).contentEquals(magic)) {
        throw corrupt(path, "it is no database")
    }
    val pages = header.getInt(28).toLong() and 0xFFFFFFFFL
    val application = header.getInt(68).toLong() and 0xFFFFFFFFL
    // Ours has its number from the first commit on; a single page may be one whose maker was killed before.
    if (application != APPLICATION_ID && (application != 0L || pages > 1)) {
        throw corrupt(path, "it is a database of another program")
    }
}

/** Tells a new file, or one whose maker was killed before it had tables. */
private fun isEmpty(database: Database): Boolean =
    number(database, "PRAGMA application_id") == 0L && number(database, "SELECT COUNT(*) FROM sqlite_master") == 0L

private fun createTables(database: Database) {
    database.begin(isWriting = true)
    // Another process may have made the tables while this one waited for the lock.
    if (number(database, "PRAGMA application_id") == APPLICATION_ID) {
        database.rollback()
        return
    }
    TABLES.forEach { database.execute(it) }
    val indexId = UUID.randomUUID().toString().replace("-", "")
    for ((key, value) in listOf("index_id" to indexId, "generation" to "0", "compacted" to "0")) {
        database.execute("INSERT INTO meta (key, value) VALUES (?, ?)", key, value)
    }
    database.execute("PRAGMA application_id = $APPLICATION_ID")
    database.execute("PRAGMA user_version = $INDEX_VERSION")
    database.commit()
}

/** Switches the write-ahead log on, which lasts; SQLite does not wait by itself for others to let it. */
private fun logAhead(database: Database) {
    val end = System.nanoTime() + BUSY_MILLIS * 1_000_000L
    while (first(database, "PRAGMA journal_mode") != "wal") {
        try {
            database.query("PRAGMA journal_mode = WAL") {}
        } catch (error: DatabaseException) {
            if (error.kind != DatabaseException.Kind.LOCKED || System.nanoTime() > end) throw error
            Thread.sleep(10)
        }
    }
}

private fun checkVersion(database: Database, path: Path) {
    if (number(database, "PRAGMA application_id") != APPLICATION_ID) {
        throw corrupt(path, "it is a database of another program")
    }
    val version = number(database, "PRAGMA user_version")
    if (version > INDEX_VERSION) {
        throw MagicError(
            ErrorCode.INDEX_TOO_NEW,
            "The index $path has version $version, this SDK reads up to $INDEX_VERSION.",
            "Update magicmm.",
        )
    }
    if (version < INDEX_VERSION) throw corrupt(path, "it has version $version")
}

private fun number(database: Database, sql: String): Long = first(database, sql) as? Long ?: 0L

private fun first(database: Database, sql: String): Any? {
    var found: Any? = null
    database.query(sql) { found = it.value(0) }
    return found
}

/** Turns what SQLite and the file system throw inside into a [MagicError]. */
internal inline fun <T> translatedErrors(path: Path, work: () -> T): T = try {
    work()
} catch (error: DatabaseException) {
    throw translate(error, path)
} catch (error: IOException) {
    throw storageFailed(error, path)
}

internal fun storageFailed(error: IOException, path: Path): MagicError {
    if (error is ClosedByInterruptException) return interrupted(error)
    val said = (error as? FileSystemException)?.reason ?: error.message ?: error.javaClass.simpleName
    return MagicError(ErrorCode.STORAGE_FAILED, "$path: $said.", "Check the path and its permissions.", error)
}

/** Returns the error for work whose thread was interrupted; the thread stays interrupted. */
internal fun interrupted(cause: Exception): MagicError {
    Thread.currentThread().interrupt()
    return MagicError(ErrorCode.CANCELLED, "The work was interrupted.", "Start it again; it goes on.", cause)
}

internal fun translate(error: DatabaseException, path: Path): MagicError {
    val (code, remedy) = when (error.kind) {
        DatabaseException.Kind.FULL ->
            ErrorCode.STORAGE_FAILED to "Free some space; what was indexed so far is kept."

        DatabaseException.Kind.IO -> ErrorCode.STORAGE_FAILED to "Check the disk; what was indexed so far is kept."

        DatabaseException.Kind.READ_ONLY ->
            ErrorCode.STORAGE_FAILED to "Make the file and its folder writable, or open another path."

        DatabaseException.Kind.CANNOT_OPEN -> ErrorCode.STORAGE_FAILED to "Check the path and its permissions."

        DatabaseException.Kind.CLOSED -> ErrorCode.ARGUMENT_INVALID to "Open the gallery again."

        DatabaseException.Kind.LOCKED ->
            ErrorCode.INDEX_LOCKED to "Another program holds the index; wait for it and try again."

        DatabaseException.Kind.DAMAGED -> return corrupt(path, error.message.orEmpty(), error)
    }
    return MagicError(code, "$path: ${error.message}.", remedy, error)
}

/** Returns the error for an index that cannot be trusted. */
internal fun corrupt(path: Path, why: String, cause: Throwable? = null): MagicError = MagicError(
    ErrorCode.INDEX_CORRUPT,
    "The index $path is damaged: $why.",
    "Move the file away and index the photos again; the photos themselves are never touched.",
    cause,
)
