package dev.magicmm

import java.nio.file.Path

/**
 * What the index needs of SQLite, so that every platform brings its own: `android.database.sqlite` on a phone,
 * `org.xerial:sqlite-jdbc` on a desktop.
 */
public fun interface DatabaseDriver {
    /**
     * Opens a database file, which is made when it is missing.
     *
     * @param busyMillis How long a statement waits for another connection's lock before it fails as `LOCKED`.
     * @throws DatabaseException When the file cannot be opened.
     */
    public fun open(path: Path, busyMillis: Int): Database
}

/**
 * One connection in autocommit mode, used by one thread at a time. Values are `Long`, `Int`, `Double`, `String`,
 * `ByteArray` or null; every method may throw [DatabaseException].
 */
public interface Database : AutoCloseable {
    /** Whether [begin] was called and neither [commit] nor [rollback] after it. */
    public val isInTransaction: Boolean

    /** Runs a statement that gives no rows; returns the id of the row that it inserted last. */
    public fun execute(sql: String, vararg values: Any?): Long

    /** Runs one statement, prepared once, for many sets of values. */
    public fun executeMany(sql: String, rows: Iterable<Array<Any?>>)

    /** Runs a statement that gives rows and calls [visit] for each; a [Row] is good only inside its call. */
    public fun query(sql: String, vararg values: Any?, visit: (Row) -> Unit)

    /**
     * Begins a transaction: for writing at once (`BEGIN IMMEDIATE`: a deferred transaction that turns into a writer
     * fails instead of waiting), or one that only reads and sees one state.
     */
    public fun begin(isWriting: Boolean)

    /** Makes what was written since [begin] last. */
    public fun commit()

    /** Takes back what was written since [begin]; does nothing when SQLite has done so itself. */
    public fun rollback()

    /** Closes the connection; may be called twice. */
    override fun close()
}

/** One row of an answer. */
public interface Row {
    /** How many columns it has. */
    public val size: Int

    /** Returns the value of a column, from 0: `Long`, `Double`, `String`, `ByteArray` or null, as SQLite stores it. */
    public fun value(column: Int): Any?
}

/**
 * What a [Database] throws.
 *
 * @property kind What it means, whatever words the driver has for it.
 */
public class DatabaseException(public val kind: Kind, message: String, cause: Throwable? = null) :
    Exception(message, cause) {
    /** What went wrong in a database. */
    public enum class Kind {
        /** No space is left (SQLITE_FULL). */
        FULL,

        /** The disk fails (SQLITE_IOERR). */
        IO,

        /** The file or its folder is not writable (SQLITE_READONLY, SQLITE_PERM). */
        READ_ONLY,

        /** The file cannot be opened (SQLITE_CANTOPEN). */
        CANNOT_OPEN,

        /** Another connection holds the database (SQLITE_BUSY, SQLITE_LOCKED). */
        LOCKED,

        /** The connection was closed before. */
        CLOSED,

        /** Everything else: the file is damaged, or not what the SDK made. */
        DAMAGED,
    }
}
