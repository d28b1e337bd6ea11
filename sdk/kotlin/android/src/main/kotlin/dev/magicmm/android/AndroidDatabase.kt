package dev.magicmm.android

import android.database.DatabaseErrorHandler
import android.database.sqlite.SQLiteAccessPermException
import android.database.sqlite.SQLiteCantOpenDatabaseException
import android.database.sqlite.SQLiteCursor
import android.database.sqlite.SQLiteDatabase
import android.database.sqlite.SQLiteDatabaseLockedException
import android.database.sqlite.SQLiteDiskIOException
import android.database.sqlite.SQLiteException
import android.database.sqlite.SQLiteFullException
import android.database.sqlite.SQLiteProgram
import android.database.sqlite.SQLiteReadOnlyDatabaseException
import android.database.sqlite.SQLiteTableLockedException
import dev.magicmm.Database
import dev.magicmm.DatabaseDriver
import dev.magicmm.DatabaseException
import dev.magicmm.DatabaseException.Kind
import dev.magicmm.Row
import java.nio.file.Path

/** SQLite as Android has it: the index file is the same as on a desktop. */
public object AndroidDatabase : DatabaseDriver {
    // Without the localized collators Android adds no table of its own. Without its flag for the write-ahead log it keeps
    // to one connection, on which the index's own settings and snapshots hold; the index switches the log on itself.
    private const val FLAGS = SQLiteDatabase.CREATE_IF_NECESSARY or SQLiteDatabase.NO_LOCALIZED_COLLATORS

    // Android's own handler deletes a damaged file; what to do with an index is for the user to say.
    private val keepTheFile = DatabaseErrorHandler { }

    override fun open(path: Path, busyMillis: Int): Database = translated {
        val database = SQLiteDatabase.openDatabase(path.toString(), null, FLAGS, keepTheFile)
        database.rawQuery("PRAGMA busy_timeout = $busyMillis", null).use { it.moveToFirst() }
        SqliteConnection(database)
    }
}

private class SqliteConnection(private val database: SQLiteDatabase) : Database {
    private enum class Transaction { READING, WRITING }

    private var transaction: Transaction? = null

    override val isInTransaction: Boolean get() = transaction != null

    override fun execute(sql: String, vararg values: Any?): Long = translated {
        database.compileStatement(sql).use { statement ->
            statement.bindAll(values)
            if (sql.startsWith("INSERT")) {
                statement.executeInsert()
            } else {
                statement.execute()
                0
            }
        }
    }

    override fun executeMany(sql: String, rows: Iterable<Array<Any?>>): Unit = translated {
        database.compileStatement(sql).use { statement ->
            for (values in rows) {
                statement.bindAll(values)
                statement.execute()
            }
        }
    }

    override fun query(sql: String, vararg values: Any?, visit: (Row) -> Unit): Unit = translated {
        // Only through a factory do values keep their types; Android's other queries take strings.
        val factory =
            SQLiteDatabase.CursorFactory { _, driver, table, query ->
                query.bindAll(values)
                SQLiteCursor(driver, table, query)
            }
        database.rawQueryWithFactory(factory, sql, null, "").use { cursor ->
            val row = CursorRow(cursor as SQLiteCursor)
            while (cursor.moveToNext()) visit(row)
        }
    }

    override fun begin(isWriting: Boolean): Unit = translated {
        if (isWriting) {
            database.beginTransactionNonExclusive()
            transaction = Transaction.WRITING
        } else {
            // Android makes an exclusive transaction of every BEGIN; a savepoint outside of one only reads.
            database.execSQL("SAVEPOINT reading")
            transaction = Transaction.READING
        }
    }

    override fun commit(): Unit = translated {
        if (transaction == Transaction.WRITING) {
            database.setTransactionSuccessful()
            // Ended even when the disk is full, and then rolled back.
            transaction = null
            database.endTransaction()
        } else {
            database.execSQL("RELEASE reading")
            transaction = null
        }
    }

    override fun rollback(): Unit = translated {
        val open = transaction
        transaction = null
        when (open) {
            Transaction.WRITING -> endFailed()
            Transaction.READING -> database.execSQL("RELEASE reading")
            null -> Unit
        }
    }

    private fun endFailed() {
        try {
            database.endTransaction()
        } catch (error: SQLiteException) {
            // SQLite has rolled back itself when the disk is full.
            if ("no transaction" !in error.message.orEmpty()) throw error
        }
    }

    override fun close(): Unit = translated {
        // Android keeps a connection with an open transaction, and its lock, beyond the closing.
        if (transaction != null) rollback()
        database.close()
    }
}

private class CursorRow(private val cursor: SQLiteCursor) : Row {
    override val size: Int get() = cursor.columnCount

    override fun value(column: Int): Any? = when (val type = cursor.getType(column)) {
        SQLiteCursor.FIELD_TYPE_NULL -> null
        SQLiteCursor.FIELD_TYPE_INTEGER -> cursor.getLong(column)
        SQLiteCursor.FIELD_TYPE_FLOAT -> cursor.getDouble(column)
        SQLiteCursor.FIELD_TYPE_STRING -> cursor.getString(column)
        SQLiteCursor.FIELD_TYPE_BLOB -> cursor.getBlob(column)
        else -> throw DatabaseException(Kind.DAMAGED, "column $column has the unknown type $type")
    }
}

private fun SQLiteProgram.bindAll(values: Array<out Any?>) {
    clearBindings()
    values.forEachIndexed { place, value ->
        when (value) {
            null -> bindNull(place + 1)
            is Long -> bindLong(place + 1, value)
            is Int -> bindLong(place + 1, value.toLong())
            is Double -> bindDouble(place + 1, value)
            is String -> bindString(place + 1, value)
            is ByteArray -> bindBlob(place + 1, value)
            else -> throw DatabaseException(Kind.DAMAGED, "SQLite stores no ${value.javaClass.simpleName}")
        }
    }
}

private inline fun <T> translated(work: () -> T): T = try {
    work()
} catch (error: SQLiteException) {
    throw DatabaseException(kindOf(error), error.message.orEmpty(), error)
} catch (error: IllegalStateException) {
    throw DatabaseException(Kind.CLOSED, error.message.orEmpty(), error)
}

private fun kindOf(error: SQLiteException): Kind = when (error) {
    is SQLiteFullException -> Kind.FULL
    is SQLiteDiskIOException -> Kind.IO
    is SQLiteReadOnlyDatabaseException, is SQLiteAccessPermException -> Kind.READ_ONLY
    is SQLiteCantOpenDatabaseException -> Kind.CANNOT_OPEN
    is SQLiteDatabaseLockedException, is SQLiteTableLockedException -> Kind.LOCKED
    else -> Kind.DAMAGED
}
