package dev.magicmm

import java.util.concurrent.Callable
import java.util.concurrent.ExecutionException
import java.util.concurrent.ExecutorService
import java.util.concurrent.Executors
import java.util.concurrent.Future
import java.util.concurrent.TimeUnit
import java.util.concurrent.atomic.AtomicInteger

/**
 * Runs slow preparation ahead of a consumer, in order and in bounded memory: calls [consume] with `work(task)` for each
 * task in order, at most [window] of them finished or under way, until it returns false.
 *
 * What has not started by then is not done; the threads have ended when this returns. An exception of [work] comes out
 * at its turn.
 */
internal fun <T, R> prefetch(tasks: List<T>, workers: Int, window: Int, work: (T) -> R, consume: (R) -> Boolean) {
    val number = AtomicInteger()
    val pool = Executors.newFixedThreadPool(workers) { job ->
        Thread(job, "magicmm-decode-${number.incrementAndGet()}").apply { isDaemon = true }
    }
    val queue = ArrayDeque<Future<R>>()
    val rest = tasks.iterator()
    val submit = { if (rest.hasNext()) rest.next().let { task -> queue += pool.submit(Callable { work(task) }) } }
    try {
        repeat(window) { submit() }
        while (queue.isNotEmpty()) {
            val ready = queue.removeFirst()
            // Refill before handing over, so that the workers stay busy while the consumer works.
            submit()
            if (!consume(resultOf(ready))) return
        }
    } finally {
        queue.forEach { it.cancel(false) }
        pool.shutdown()
        endOf(pool)
    }
}

private fun <R> resultOf(future: Future<R>): R = try {
    future.get()
} catch (error: ExecutionException) {
    throw error.cause ?: error
} catch (error: InterruptedException) {
    throw interrupted(error)
}

/** Waits for the jobs under way, also when this thread is interrupted: they must not outlive the sync. */
private fun endOf(pool: ExecutorService) {
    var wasInterrupted = Thread.interrupted()
    while (true) {
        try {
            if (pool.awaitTermination(1, TimeUnit.MINUTES)) break
        } catch (_: InterruptedException) {
            wasInterrupted = true
        }
    }
    if (wasInterrupted) Thread.currentThread().interrupt()
}
