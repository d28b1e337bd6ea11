package dev.magicmm.jvm

import dev.magicmm.ContentHash
import dev.magicmm.Index
import dev.magicmm.Model
import dev.magicmm.PhotoFacts
import dev.magicmm.Quantised
import dev.magicmm.Query
import dev.magicmm.ScanMatrix
import dev.magicmm.Stamp
import dev.magicmm.openScanFile
import dev.magicmm.putPhoto
import dev.magicmm.putVector
import dev.magicmm.quantise
import dev.magicmm.removePhotos
import dev.magicmm.removedSeqs
import dev.magicmm.scanDataIsSound
import dev.magicmm.scanPath
import dev.magicmm.writeScanFile
import org.junit.jupiter.api.AfterEach
import org.junit.jupiter.api.Assertions.assertArrayEquals
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertFalse
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.BeforeEach
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir
import java.nio.file.Files
import java.nio.file.Path
import java.util.Random

private const val DIM = 12

/** The scan file, and every way of it being wrong: a search then finds the same in SQLite. */
class ScanTest {
    @TempDir
    lateinit var folder: Path
    private lateinit var index: Index
    private val model: Model get() = index.activeModel()!!
    private val file get() = scanPath(index.path)

    @BeforeEach
    fun open() {
        index = Index(folder.resolve("index.db"), SqliteJdbc, create = true)
        index.transaction { index.addModel("ab".repeat(32), "small", DIM, true) }
    }

    @AfterEach
    fun close() = index.close()

    private fun vector(number: Int): Quantised {
        val random = Random(number.toLong())
        return quantise(FloatArray(DIM) { random.nextFloat() - 0.5f })
    }

    private fun uri(number: Int) = "file:///p/%05d".format(number)

    private fun add(numbers: IntRange): List<Long> = index.transaction {
        numbers.map { number ->
            val facts = PhotoFacts(uri(number), Stamp(1, 1), ContentHash.of(byteArrayOf(number.toByte())))
            index.putPhoto(facts, null).also { index.putVector(it, model, vector(number)) }
        }.also { index.bumpGeneration() }
    }

    private fun remove(vararg numbers: Int) = index.transaction {
        index.removePhotos(numbers.map(::uri))
        index.bumpGeneration()
    }

    private fun answer(selected: LongArray? = null): Pair<List<Pair<Long, Float>>, Int> {
        val (best, searched) = ScanMatrix.load(index, model).search(Query(vector(1000), 500), selected)
        return best.ids.toList().zip(best.scores.toList()) to searched
    }

    /** What a search finds must not depend on the scan file. */
    private fun assertSameWithoutFile() {
        val some = LongArray(100) { 1L + 3 * it }
        val selections = listOf(null, some, longArrayOf(5, 1L shl 40, Long.MAX_VALUE), LongArray(0))
        val with = selections.map(::answer)
        val data = Files.readAllBytes(file)
        Files.delete(file)
        assertEquals(selections.map(::answer), with)
        Files.write(file, data)
    }

    private fun isUsed() = openScanFile(file, index, model) != null

    @Test
    fun `file and changes give what sqlite holds`() {
        val ids = add(0..299)
        writeScanFile(index, model)
        assertTrue(isUsed() && scanDataIsSound(file))
        add(300..340)
        remove(0, 7, 19, 301)
        index.transaction {
            index.putVector(ids[2], model, vector(99))
            index.bumpGeneration()
        }
        assertTrue(isUsed())
        assertSameWithoutFile()
        assertEquals(337, answer().second)
        writeScanFile(index, model)
        assertEquals(0, index.removedSeqs().size)
        assertSameWithoutFile()
    }

    @Test
    fun `an empty index has an empty file`() {
        writeScanFile(index, model)
        assertEquals(128, Files.size(file))
        assertTrue(isUsed())
        assertEquals(0, answer().second)
    }

    @Test
    fun `a file cut short or with a byte too many is not used`() {
        add(0..19)
        writeScanFile(index, model)
        val sound = Files.readAllBytes(file)
        for (size in listOf(0, 1, 127, 128, 300, sound.size - 1, sound.size + 1)) {
            Files.write(file, sound.copyOf(size))
            assertFalse(isUsed(), "$size bytes")
            if (size < sound.size) assertFalse(scanDataIsSound(file))
        }
        assertEquals(20, answer().second)
    }

    @Test
    fun `a flipped bit in header or columns is seen at once, in the codes by the full check`() {
        add(0..8)
        writeScanFile(index, model)
        val sound = Files.readAllBytes(file)
        for (place in (0 until 112) + (128 until 128 + 20 * 9)) {
            Files.write(file, sound.copyOf().also { it[place] = (it[place].toInt() xor 4).toByte() })
            assertFalse(isUsed(), "byte $place")
        }
        Files.write(file, sound.copyOf().also { it[sound.size - 1] = (it[sound.size - 1].toInt() xor 1).toByte() })
        assertFalse(scanDataIsSound(file))
    }

    @Test
    fun `a file of another model, of before or of beyond is not used`() {
        add(0..3)
        writeScanFile(index, model)
        assertTrue(openScanFile(file, index, model.copy(fingerprint = "cd".repeat(32))) == null)
        assertTrue(openScanFile(file, index, model.copy(dim = DIM + 1)) == null)
        val old = Files.readAllBytes(file)
        remove(1)
        writeScanFile(index, model)
        Files.write(file, old)
        assertFalse(isUsed())
        assertEquals(3, answer().second)
    }

    @Test
    fun `writing leaves nothing beside the file`() {
        add(0..3)
        writeScanFile(index, model)
        val left = Files.list(folder).use { files -> files.map { "${it.fileName}" }.toArray().toSet() }
        assertEquals(setOf("index.db", "index.db.scan"), left - setOf("index.db-wal", "index.db-shm"))
    }

    @Test
    fun `rewriting is worth it at first and after many changes`() {
        assertFalse(ScanMatrix.load(index, model).isWorthRewriting)
        add(0..9)
        assertTrue(ScanMatrix.load(index, model).isWorthRewriting)
        writeScanFile(index, model)
        add(10..1009)
        assertFalse(ScanMatrix.load(index, model).isWorthRewriting)
        add(1010..1010)
        assertTrue(ScanMatrix.load(index, model).isWorthRewriting)
    }

    @Test
    fun `the same index gives the same file again`() {
        add(0..30)
        writeScanFile(index, model)
        val first = Files.readAllBytes(file)
        writeScanFile(index, model)
        assertArrayEquals(first, Files.readAllBytes(file))
    }
}
