package dev.magicmm

/** Photos a model call and a transaction. */
private const val BATCH = 16
private const val COMMIT_NANOS = 2_000_000_000L

/** Files a transaction when none of them needs the model. */
private const val MOST_OUTCOMES = 512
private const val WINDOW = 4 * BATCH

/**
 * When a sync stops by itself; what it did until then is kept, and the next sync goes on.
 *
 * @property seconds Stop after this time.
 * @property files Stop after this many files.
 */
public data class Budget(val seconds: Double? = null, val files: Int? = null)

/** Lets another thread stop a sync: it ends with the code `cancelled`, and what was committed is kept. */
public class Cancellation {
    @Volatile
    private var wasCalled = false

    /** Whether [cancel] was called. */
    public val isCancelled: Boolean get() = wasCalled

    /** Asks the work to stop at the next photo; may be called from any thread, more than once. */
    public fun cancel() {
        wasCalled = true
    }

    internal fun check() {
        if (wasCalled) throw MagicError(ErrorCode.CANCELLED, "The sync was stopped.", "Start it again; it goes on.")
    }
}

/** What a sync found to do: new and changed files, URIs that are gone, places that cannot be read. */
internal class Work(val tasks: List<Task>, val removed: List<String>, val unavailable: List<String>)

/** How a sync may end early, and who hears of its steps. */
internal class Control(val budget: Budget, val cancellation: Cancellation, val onProgress: (Progress) -> Unit)

/**
 * Brings the index up to date with its sources: decodes ahead, embeds in batches, commits each batch whole. The order
 * of events is chosen so that a kill at any moment loses nothing and at most one batch of work:
 *  1. look what is new, changed, gone; forget at once what is gone and cannot have moved;
 *  2. for each new or changed file: known content keeps its vector (moved, copied, touched), the rest is embedded;
 *  3. forget what is gone for good; the caller writes the scan file.
 *
 * The caller holds the index's lock. One event comes at the start, one after each commit, one at the end.
 */
internal class Sync(
    private val index: Index,
    private val model: Model,
    private val embedder: PhotoEmbedder,
    private val work: Work,
    private val control: Control,
) {
    private val sizes = work.tasks.mapTo(HashSet()) { it.ref.stamp.bytes }
    private val counts = Counts(work.tasks.size, work.unavailable)

    /** Does the work and returns the last event. */
    fun run(): Progress {
        val known = if (work.tasks.isEmpty()) emptySet() else index.knownHashes(model)
        val preparer = Preparer(embedder, known::contains)
        val writer = Writer(index, model, embedder, preparer, sizes)
        report(counts.progress())
        val perhapsMoved = removeAtOnce()
        for ((photoId, facts) in perhapsMoved) {
            if (facts.reason != null || facts.hash == null) continue
            writer.vanished.getOrPut(facts.hash) { ArrayList() } += photoId
        }
        val files = control.budget.files
        runTasks(if (files == null) work.tasks else work.tasks.take(maxOf(0, files)), preparer, writer)
        if (counts.done == work.tasks.size && perhapsMoved.isNotEmpty()) {
            // A moved photo's row has another URI by now.
            removeForGood(perhapsMoved.map { it.second.uri })
        }
        return report(counts.progress())
    }

    /** Works through the tasks as far as the budget of time allows. */
    private fun runTasks(tasks: List<Task>, preparer: Preparer, writer: Writer) {
        val waiting = ArrayList<Outcome>()
        var committed = System.nanoTime()
        val commit = {
            report(counts.add(writer.commit(waiting)))
            waiting.clear()
            committed = System.nanoTime()
        }
        val workers = maxOf(2, Runtime.getRuntime().availableProcessors())
        prefetch(tasks, workers, WINDOW, {
            control.cancellation.check()
            preparer.prepare(it)
        }) { outcome ->
            control.cancellation.check()
            waiting += outcome
            val isFull = waiting.count { it.pixels != null } >= BATCH || waiting.size >= MOST_OUTCOMES
            val isDue = isFull || System.nanoTime() - committed > COMMIT_NANOS
            if (isDue) commit()
            !(isDue && control.budget.seconds.let { it != null && counts.seconds >= it })
        }
        if (waiting.isNotEmpty()) commit()
    }

    /** Forgets photos that are gone, but for those that a file of the same size might turn out to be. */
    private fun removeAtOnce(): List<Pair<Long, PhotoFacts>> {
        val gone = ArrayList<String>()
        val perhapsMoved = ArrayList<Pair<Long, PhotoFacts>>()
        for (uri in work.removed) {
            val photoId = index.photoId(uri)
            val facts = photoId?.let(index::photoFacts)
            if (facts != null && facts.stamp.bytes in sizes) perhapsMoved += photoId to facts else gone += uri
        }
        if (gone.isNotEmpty()) removeForGood(gone)
        return perhapsMoved
    }

    private fun removeForGood(uris: List<String>) {
        val before = index.countPhotos()
        index.transaction {
            index.removePhotos(uris)
            index.bumpGeneration()
        }
        counts.removed += before - index.countPhotos()
    }

    private fun report(progress: Progress): Progress = progress.also(control.onProgress)

    companion object {
        /** Compares sources and index. */
        fun findWork(index: Index, model: Model?, sources: List<PhotoSource>): Work {
            val tasks = ArrayList<Task>()
            val removed = ArrayList<String>()
            val unavailable = ArrayList<String>()
            for (source in sources) {
                val ids = index.photoIds(source.uri)
                val changes = source.changes(index.stamps(source.uri, model), ids.keys)
                changes.new.mapTo(tasks) { Task(source, it, null) }
                changes.changed.mapTo(tasks) { Task(source, it, ids.getValue(it.uri)) }
                removed += changes.removed
                unavailable += changes.unavailable
            }
            // Photos that failed before come last: they must not use up a budget that others could have.
            val failed = index.skippedIds()
            tasks.sortBy { it.photoId in failed }
            // A source of another kind than folders is reachable only when the caller brings it.
            unavailable += index.sources().filter { uri -> sources.none { uri.startsWith(it.uri) } }
            return Work(tasks, removed, unavailable)
        }
    }
}

/** Running totals of a sync; [Progress] is made from them. */
private class Counts(private val total: Int, private val unavailable: List<String>) {
    private val kinds = IntArray(Kind.values().size)
    private val started = System.nanoTime()
    var removed = 0

    /** Files dealt with. */
    val done: Int get() = kinds.sum()

    /** Time since the start. */
    val seconds: Double get() = (System.nanoTime() - started) / 1e9

    /** Counts what a commit wrote and returns the event for it: what is reported is on disk. */
    fun add(committed: Committed): Progress {
        committed.kinds.forEach { kinds[it.ordinal]++ }
        return progress(committed.skips)
    }

    /** Returns the event for what is committed by now. */
    fun progress(skips: List<Skip> = emptyList()): Progress {
        val elapsed = seconds
        val rate = if (elapsed > 0) done / elapsed else 0.0
        return Progress(
            done = done,
            total = total,
            embedded = kinds[Kind.EMBEDDED.ordinal],
            reused = kinds[Kind.REUSED.ordinal],
            removed = removed,
            skipped = kinds[Kind.SKIPPED.ordinal],
            rate = rate,
            etaSeconds = if (rate > 0) (total - done) / rate else null,
            skips = skips,
            unavailable = unavailable,
        )
    }
}
