package dev.magicmm.android

import dev.magicmm.Database
import dev.magicmm.DatabaseException
import dev.magicmm.DatabaseException.Kind
import dev.magicmm.jvm.SqliteJdbc
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import org.junit.runner.RunWith
import org.robolectric.RobolectricTestRunner
import org.robolectric.annotation.Config
import java.nio.file.Files
import java.nio.file.Path
import java.util.concurrent.CountDownLatch
import java.util.concurrent.TimeUnit
import kotlin.concurrent.thread

@RunWith(RobolectricTestRunner::class)
@Config(sdk = [26, 35])
class AndroidDatabaseTest {
    @get:Rule
    val folder = TemporaryFolder()

    private val path: Path get() = folder.root.toPath().resolve("test.db")

    private fun withDatabase(work: (Database) -> Unit) = AndroidDatabase.open(path, BUSY_MILLIS).use(work)

    private fun Database.column(sql: String, vararg values: Any?): List<Any?> =
        ArrayList<Any?>().also { found -> query(sql, *values) { found += it.value(0) } }

    @Test
    fun valuesKeepTheirTypes() = withDatabase { database ->
        database.execute("CREATE TABLE t (v)")
        val bytes = byteArrayOf(1, 0, -1)
        database.executeMany(
            "INSERT INTO t (v) VALUES (?)",
            listOf(1L, 7, 2.5, "words", bytes, null).map {
                arrayOf(it)
            },
        )
        val found = database.column("SELECT v FROM t ORDER BY rowid")
        assertEquals(listOf(1L, 7L, 2.5, "words"), found.take(4))
        assertArrayEquals(bytes, found[4] as ByteArray)
        assertEquals(null, found[5])
        assertEquals(listOf(2.5), database.column("SELECT v FROM t WHERE COALESCE(v, 0) BETWEEN ? AND ?", 2.4, 2.6))
    }

    @Test
    fun insertsGiveTheirRow() = withDatabase { database ->
        database.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, v)")
        assertEquals(41L, database.execute("INSERT INTO t (id, v) VALUES (?, ?)", 41, "a"))
        assertEquals(42L, database.execute("INSERT INTO t (v) VALUES (?)", "b"))
    }

    @Test
    fun rollbackTakesBackAndCommitKeeps() = withDatabase { database ->
        database.execute("CREATE TABLE t (v)")
        database.begin(isWriting = true)
        database.execute("INSERT INTO t (v) VALUES (1)")
        database.rollback()
        database.begin(isWriting = true)
        database.execute("INSERT INTO t (v) VALUES (2)")
        assertTrue(database.isInTransaction)
        database.commit()
        assertEquals(listOf(2L), database.column("SELECT v FROM t"))
    }

    @Test
    fun aReaderSeesOneState() = withDatabase { database ->
        database.query("PRAGMA journal_mode = WAL") {}
        database.execute("CREATE TABLE t (v)")
        database.begin(isWriting = false)
        assertEquals(emptyList<Any?>(), database.column("SELECT v FROM t"))
        withOther { it.execute("INSERT INTO t (v) VALUES (1)") }
        assertEquals(emptyList<Any?>(), database.column("SELECT v FROM t"))
        database.commit()
        assertEquals(listOf(1L), database.column("SELECT v FROM t"))
    }

    @Test
    fun aSecondWriterWaitsAndThenIsLocked() = withDatabase { database ->
        database.query("PRAGMA journal_mode = WAL") {}
        database.execute("CREATE TABLE t (v)")
        database.begin(isWriting = true)
        withOther { other ->
            val error = assertThrows(DatabaseException::class.java) { other.begin(isWriting = true) }
            assertEquals(Kind.LOCKED, error.kind)
        }
        database.commit()
        withOther { other ->
            other.begin(isWriting = true)
            other.commit()
        }
    }

    @Test
    fun aDamagedFileIsKept() {
        val content = "SQLite format 3\u0000".toByteArray() + ByteArray(4096) { 0x5A }
        Files.write(path, content)
        val error = assertThrows(DatabaseException::class.java) {
            withDatabase { it.execute("CREATE TABLE t (v)") }
        }
        assertEquals(Kind.DAMAGED, error.kind)
        assertArrayEquals(content, Files.readAllBytes(path))
    }

    @Test
    fun aFullDiskIsTold() = withDatabase { database ->
        database.query("PRAGMA journal_mode = WAL") {}
        database.execute("CREATE TABLE t (v)")
        database.query("PRAGMA max_page_count = 10") {}
        database.begin(isWriting = true)
        val error = assertThrows(DatabaseException::class.java) {
            repeat(100) { database.execute("INSERT INTO t (v) VALUES (?)", ByteArray(4000)) }
        }
        assertEquals(Kind.FULL, error.kind)
        database.rollback()
        assertEquals(listOf(0L), database.column("SELECT COUNT(*) FROM t"))
    }

    @Test
    fun aClosedConnectionSaysSo() {
        val database = AndroidDatabase.open(path, BUSY_MILLIS)
        database.close()
        database.close()
        val error = assertThrows(DatabaseException::class.java) { database.execute("CREATE TABLE t (v)") }
        assertEquals(Kind.CLOSED, error.kind)
    }

    @Test
    fun aMissingFolderCannotBeOpened() {
        val error = assertThrows(DatabaseException::class.java) {
            AndroidDatabase.open(folder.root.toPath().resolve("no").resolve("x.db"), BUSY_MILLIS).close()
        }
        assertEquals(Kind.CANNOT_OPEN, error.kind)
    }

    @Test
    fun androidAddsNoTableOfItsOwn() {
        withDatabase { it.execute("CREATE TABLE t (v)") }
        SqliteJdbc.open(path, BUSY_MILLIS).use { desktop ->
            assertEquals(listOf("t"), desktop.column("SELECT name FROM sqlite_master"))
        }
    }

    /** A second connection, in another thread as in an app. */
    private fun withOther(work: (Database) -> Unit) {
        var failure: Throwable? = null
        val done = CountDownLatch(1)
        thread {
            try {
                withDatabase(work)
            } catch (error: Throwable) {
                failure = error
            } finally {
                done.countDown()
            }
        }
        assertTrue(done.await(30, TimeUnit.SECONDS))
        failure?.let { throw it }
    }

    private companion object {
        const val BUSY_MILLIS = 300
    }
}
