package dev.magicmm

import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertFalse
import org.junit.jupiter.api.Assertions.assertThrows
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Test
import java.util.concurrent.atomic.AtomicInteger

class PrefetchTest {
    @Test
    fun `results come in order and no more than the window is under way`() {
        val begun = AtomicInteger()
        val taken = ArrayList<Int>()
        prefetch((0 until 50).toList(), workers = 3, window = 5, work = {
            begun.incrementAndGet()
            it * it
        }) {
            taken += it
            assertTrue(begun.get() <= taken.size + 5)
            true
        }
        assertEquals((0 until 50).map { it * it }, taken)
    }

    @Test
    fun `stopping leaves what has not started and ends the threads`() {
        val begun = AtomicInteger()
        prefetch((0 until 1000).toList(), 2, 4, { begun.incrementAndGet() }) { false }
        val after = begun.get()
        assertTrue(after <= 6)
        assertFalse(Thread.getAllStackTraces().keys.any { it.name.startsWith("magicmm-decode") && it.isAlive })
        assertEquals(after, begun.get())
    }

    @Test
    fun `an exception comes out at its turn`() {
        val taken = ArrayList<Int>()
        assertThrows(IllegalStateException::class.java) {
            prefetch((0 until 9).toList(), 2, 4, {
                check(it != 3) { "three" }
                it
            }) {
                taken += it
                true
            }
        }
        assertEquals(listOf(0, 1, 2), taken)
    }

    @Test
    fun `an interrupted consumer gets the code cancelled and stays interrupted`() {
        Thread.currentThread().interrupt()
        val error = assertThrows(MagicError::class.java) {
            prefetch(listOf(1, 2), 1, 2, {
                Thread.sleep(50)
                it
            }) { true }
        }
        assertTrue(Thread.interrupted())
        assertEquals(ErrorCode.CANCELLED, error.code)
    }
}
