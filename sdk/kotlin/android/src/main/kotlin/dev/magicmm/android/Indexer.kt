package dev.magicmm.android

import dev.magicmm.Budget
import dev.magicmm.Cancellation
import dev.magicmm.ErrorCode
import dev.magicmm.Gallery
import dev.magicmm.MagicError
import dev.magicmm.Progress
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.asStateFlow
import java.util.concurrent.locks.ReentrantLock
import kotlin.concurrent.withLock

/** What an [Indexer] is doing. */
public sealed class IndexingState {
    /** Nothing yet. */
    public object Idle : IndexingState()

    /** At work; [progress] is on disk. */
    public data class Running(val progress: Progress?) : IndexingState()

    /** Waits for what [pauses] say. */
    public data class Paused(val progress: Progress, val pauses: List<Pause>) : IndexingState()

    /** Everything that there was to do is done. */
    public data class Finished(val progress: Progress) : IndexingState()

    /** Stopped by the caller; the next run goes on. */
    public object Stopped : IndexingState()

    /** Ended by an error; what was done before is kept. */
    public data class Failed(val error: MagicError) : IndexingState()
}

/**
 * Syncs a gallery when the governor lets it, one run at a time, and says how it goes. Every event comes after a commit, so
 * that a pause, a stop or a kill loses at most one batch of work.
 *
 * @param gallery The gallery.
 * @property governor What decides whether it may go on.
 * @param pollMillis How often a paused run looks again.
 */
public class Indexer(private val gallery: Gallery, public val governor: Governor, private val pollMillis: Long = 500) {
    private val current = MutableStateFlow<IndexingState>(IndexingState.Idle)
    private val lock = ReentrantLock()
    private val ended = lock.newCondition()
    private var running: Cancellation? = null

    /** What it is doing, for screens. */
    public val state: StateFlow<IndexingState> = current.asStateFlow()

    /** Whether a run is under way, paused or not. */
    public val isRunning: Boolean get() = lock.withLock { running != null }

    /**
     * Syncs in this thread until all is done.
     *
     * @param waits Whether to wait out a pause; otherwise the run ends there, as a job in the background should.
     * @return What it ended with.
     */
    public fun run(waits: Boolean = true): IndexingState {
        val cancellation = Cancellation()
        lock.withLock {
            if (running != null) return current.value
            running = cancellation
        }
        return governed(cancellation, waits)
    }

    /** As [run], in a thread of its own; does nothing while a run is under way. */
    public fun start() {
        val cancellation = Cancellation()
        lock.withLock {
            if (running != null) return
            running = cancellation
            // Shown before the thread has begun: the state must not be that of the run before.
            current.value = IndexingState.Running(null)
        }
        Thread({ governed(cancellation, waits = true) }, "magicmm-index").start()
    }

    /** Asks the run under way to end at the next photo; returns at once. */
    public fun stop() {
        lock.withLock { running?.cancel() }
    }

    /** Waits until no run is under way. */
    public fun awaitEnd() {
        lock.withLock { while (running != null) ended.await() }
    }

    private fun governed(cancellation: Cancellation, waits: Boolean): IndexingState {
        current.value = IndexingState.Running(null)
        var end: IndexingState = IndexingState.Stopped
        try {
            end = synced(cancellation, waits)
        } finally {
            // Also after a mistake that nobody foresaw: who waits for the end must not wait for ever.
            lock.withLock {
                running = null
                current.value = end
                ended.signalAll()
            }
        }
        return end
    }

    private fun synced(cancellation: Cancellation, waits: Boolean): IndexingState = try {
        IndexingState.Finished(
            gallery.sync(Budget(), cancellation) { progress ->
                current.value = IndexingState.Running(progress)
                if (progress.done < progress.total) hold(progress, cancellation, waits)
            },
        )
    } catch (error: MagicError) {
        if (error.code == ErrorCode.CANCELLED) IndexingState.Stopped else IndexingState.Failed(error)
    }

    /** Keeps the sync where it is as long as something speaks against going on. */
    private fun hold(progress: Progress, cancellation: Cancellation, waits: Boolean) {
        while (!cancellation.isCancelled) {
            val pauses = governor.pauses()
            if (pauses.isEmpty()) break
            current.value = IndexingState.Paused(progress, pauses)
            if (!waits) cancellation.cancel()
            Thread.sleep(pollMillis)
        }
        if (!cancellation.isCancelled) current.value = IndexingState.Running(progress)
    }
}
