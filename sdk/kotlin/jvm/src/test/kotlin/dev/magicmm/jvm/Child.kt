package dev.magicmm.jvm

import dev.magicmm.FolderSource
import dev.magicmm.Gallery
import dev.magicmm.MagicError
import java.nio.file.Files
import java.nio.file.Path
import java.nio.file.Paths
import java.nio.file.StandardOpenOption

/** A process that syncs or rebuilds, for tests that kill it. */
class Child private constructor(private val process: Process) {
    private val lines = process.inputStream.bufferedReader()

    /** Waits until its classes are loaded. */
    fun awaitReady() = check(lines.readLine() == "ready")

    /** Kills it as the system would (SIGKILL), unless it has ended; returns what it had said. */
    fun killedAfter(millis: Long): List<String> {
        Thread.sleep(millis)
        process.toHandle().destroyForcibly() // that of Process would close the stream, too
        return lines.readLines().also { process.waitFor() }
    }

    /** Waits for its end and returns the last it said. */
    fun ended(): String = lines.readLines().last().also { process.waitFor() }

    companion object {
        /** Starts a sync of [photos]; [log] gets an "x" for every photo before the model sees it. */
        fun sync(index: Path, photos: Path, log: Path? = null, verb: String = "sync"): Child {
            val java = Paths.get(System.getProperty("java.home"), "bin", "java").toString()
            val command = listOf(
                java, "-XX:TieredStopAtLevel=1", "-cp", System.getProperty("java.class.path"),
                "dev.magicmm.jvm.ChildKt", verb, "$index", "$photos", "${log ?: "-"}",
            )
            return Child(ProcessBuilder(command).redirectError(ProcessBuilder.Redirect.INHERIT).start())
        }
    }
}

/** The child's side: says on stdout what is committed, and "done" or the code of an error at the end. */
fun main(arguments: Array<String>) {
    val (verb, index, photos, log) = arguments
    val embedder = HashEmbedder(seed = if (verb == "rebuild") 1 else 0)
    if (log != "-") {
        embedder.refuses = { data ->
            Files.write(Paths.get(log), "x".toByteArray(), StandardOpenOption.CREATE, StandardOpenOption.APPEND)
            Thread.sleep(1)
            data.isEmpty()
        }
    }
    try {
        Gallery.open(embedder, listOf(FolderSource(Paths.get(photos))), Paths.get(index)).use { gallery ->
            say("ready")
            val report = { _: Any -> gallery.status().run { say("${if (verb == "rebuild") rebuilt else indexed}") } }
            if (verb == "rebuild") gallery.rebuild(onProgress = report) else gallery.sync(onProgress = report)
        }
        say("done")
    } catch (error: MagicError) {
        say(error.code.value)
    }
}

private fun say(line: String) {
    println(line)
    System.out.flush()
}
