package dev.magicmm.jvm

import dev.magicmm.Database
import dev.magicmm.DatabaseDriver
import dev.magicmm.DatabaseException
import dev.magicmm.DatabaseException.Kind
import dev.magicmm.Row
import org.sqlite.SQLiteConfig
import org.sqlite.SQLiteErrorCode
import org.sqlite.SQLiteException
import java.nio.file.Path
import java.sql.Connection
import java.sql.PreparedStatement
import java.sql.ResultSet
import java.sql.SQLException

/** SQLite for the JVM, by `org.xerial:sqlite-jdbc`. */
public object SqliteJdbc : DatabaseDriver {
    override fun open(path: Path, busyMillis: Int): Database = translated {
        val config = SQLiteConfig().apply { setBusyTimeout(busyMillis) }
        // As a URI: the driver takes what follows a "?" for settings, and odd bytes survive.
        JdbcDatabase(config.createConnection("jdbc:sqlite:${path.toUri()}"))
    }
}

private class JdbcDatabase(private val connection: Connection) : Database {
    override var isInTransaction: Boolean = false
        private set

    override fun execute(sql: String, vararg values: Any?): Long = translated {
        connection.prepareStatement(sql).use { statement ->
            bind(statement, values)
            statement.execute()
        }
        var rowId = 0L
        if (sql.startsWith("INSERT")) query("SELECT last_insert_rowid()") { rowId = it.value(0) as Long }
        rowId
    }

    override fun executeMany(sql: String, rows: Iterable<Array<Any?>>) = translated {
        connection.prepareStatement(sql).use { statement ->
            for (values in rows) {
                bind(statement, values)
                statement.execute()
            }
        }
    }

    override fun query(sql: String, vararg values: Any?, visit: (Row) -> Unit) = translated {
        connection.prepareStatement(sql).use { statement ->
            bind(statement, values)
            // PRAGMAs that set something may give no rows.
            if (statement.execute()) {
                statement.resultSet.use { result ->
                    val row = JdbcRow(result)
                    while (result.next()) visit(row)
                }
            }
        }
    }

    override fun begin(isWriting: Boolean) {
        execute(if (isWriting) "BEGIN IMMEDIATE" else "BEGIN")
        isInTransaction = true
    }

    override fun commit() {
        execute("COMMIT")
        isInTransaction = false
    }

    override fun rollback() {
        isInTransaction = false
        try {
            execute("ROLLBACK")
        } catch (error: DatabaseException) {
            // SQLite has rolled back itself when the disk is full.
            if ("no transaction" !in error.message.orEmpty()) throw error
        }
    }

    override fun close() = translated { connection.close() }

    private fun bind(statement: PreparedStatement, values: Array<out Any?>) {
        values.forEachIndexed { place, value -> statement.setObject(place + 1, value) }
    }
}

private class JdbcRow(private val result: ResultSet) : Row {
    override val size: Int = result.metaData.columnCount

    override fun value(column: Int): Any? = when (val value = result.getObject(column + 1)) {
        is Int -> value.toLong()
        else -> value
    }
}

private inline fun <T> translated(work: () -> T): T = try {
    work()
} catch (error: SQLException) {
    throw DatabaseException(kindOf(error), error.message.orEmpty(), error)
}

private fun kindOf(error: SQLException): Kind {
    if (error !is SQLiteException) return if ("closed" in error.message.orEmpty()) Kind.CLOSED else Kind.DAMAGED
    // The low byte is the plain code of an extended one.
    return when (error.resultCode.code and 0xFF) {
        SQLiteErrorCode.SQLITE_FULL.code -> Kind.FULL
        SQLiteErrorCode.SQLITE_IOERR.code -> Kind.IO
        SQLiteErrorCode.SQLITE_READONLY.code, SQLiteErrorCode.SQLITE_PERM.code -> Kind.READ_ONLY
        SQLiteErrorCode.SQLITE_CANTOPEN.code -> Kind.CANNOT_OPEN
        SQLiteErrorCode.SQLITE_BUSY.code, SQLiteErrorCode.SQLITE_LOCKED.code -> Kind.LOCKED
        else -> Kind.DAMAGED
    }
}
