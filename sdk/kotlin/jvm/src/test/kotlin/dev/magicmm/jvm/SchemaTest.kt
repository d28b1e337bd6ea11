package dev.magicmm.jvm

import dev.magicmm.ErrorCode
import dev.magicmm.Index
import org.junit.jupiter.api.Assertions.assertArrayEquals
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir
import java.nio.file.Files
import java.nio.file.Path

/** Files that are no index of ours are refused and left as they are. */
class SchemaTest {
    @TempDir
    lateinit var folder: Path
    private val path get() = folder.resolve("i.db")

    private fun refusal(create: Boolean = false): ErrorCode {
        val before = Files.readAllBytes(path)
        val code = codeOf { Index(path, SqliteJdbc, create).close() }
        assertArrayEquals(before, Files.readAllBytes(path))
        return code
    }

    @Test
    fun `an index is made with folders, version and write-ahead log`() {
        val deep = folder.resolve("a/b/i.db")
        Index(deep, SqliteJdbc, create = true).use { assertEquals(32, it.meta("index_id").length) }
        val facts = "SELECT * FROM pragma_application_id, pragma_user_version, pragma_journal_mode"
        assertEquals(listOf(listOf<Any?>(0x4D4D4958, 1, "wal")), rowsOf(deep, facts))
    }

    @Test
    fun `files of others are refused untouched`() {
        Files.write(path, "no database ".repeat(20).toByteArray())
        assertEquals(ErrorCode.INDEX_CORRUPT, refusal(create = true))
        Files.write(path, "short".toByteArray())
        assertEquals(ErrorCode.INDEX_CORRUPT, refusal())
        Files.delete(path)
        execute(path, "CREATE TABLE other (x)")
        assertEquals(ErrorCode.INDEX_CORRUPT, refusal(create = true))
    }

    @Test
    fun `later and impossible versions are refused`() {
        Index(path, SqliteJdbc, create = true).close()
        execute(path, "PRAGMA user_version = 2")
        assertEquals(ErrorCode.INDEX_TOO_NEW, codeOf { Index(path, SqliteJdbc).close() })
        execute(path, "PRAGMA user_version = 0")
        assertEquals(ErrorCode.INDEX_CORRUPT, codeOf { Index(path, SqliteJdbc).close() })
    }

    @Test
    fun `an empty file is a new index and a missing one is not`() {
        assertEquals(ErrorCode.SOURCE_UNAVAILABLE, codeOf { Index(path, SqliteJdbc).close() })
        Files.createFile(path)
        Index(path, SqliteJdbc).use { assertEquals(0, it.metaNumber("generation")) }
    }

    @Test
    fun `a folder in place of the file is a matter of storage`() {
        Files.createDirectories(path)
        assertEquals(ErrorCode.STORAGE_FAILED, codeOf { Index(path, SqliteJdbc, create = true).close() })
        Files.createFile(folder.resolve("file"))
        val below = folder.resolve("file/i.db")
        assertEquals(ErrorCode.STORAGE_FAILED, codeOf { Index(below, SqliteJdbc, create = true).close() })
    }

    @Test
    fun `an index may have any name`() {
        for (name in listOf("a?b=c.db", "a b#%20&.db", "äöü.db", ":memory:", "file:x.db?mode=memory")) {
            val odd = folder.resolve(name)
            Index(odd, SqliteJdbc, create = true).use { it.transaction { it.addSource("file:///p/") } }
            assertEquals(setOf(odd), Files.list(folder).use { files -> files.toArray().toSet() })
            Index(odd, SqliteJdbc).use { assertEquals(listOf("file:///p/"), it.sources()) }
            Files.delete(odd)
        }
    }

    @Test
    fun `many may make the same index at once`() {
        val codes = java.util.concurrent.CopyOnWriteArrayList<Any>()
        val threads = List(8) {
            Thread {
                try {
                    Index(path, SqliteJdbc, create = true).use { codes += it.meta("index_id") }
                } catch (error: Throwable) {
                    codes += error
                }
            }.apply { start() }
        }
        threads.forEach(Thread::join)
        assertEquals(1, codes.toSet().size, "$codes")
    }
}
