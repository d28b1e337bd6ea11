package dev.magicmm.conformance

import com.google.gson.JsonObject
import dev.magicmm.Bundle
import dev.magicmm.Embedder
import dev.magicmm.Index
import dev.magicmm.Model
import dev.magicmm.Query
import dev.magicmm.RgbImage
import dev.magicmm.ScanMatrix
import dev.magicmm.Segment
import dev.magicmm.jvm.SqliteJdbc
import dev.magicmm.openScanFile
import dev.magicmm.ort.OrtSessions
import dev.magicmm.scanPath
import dev.magicmm.topK
import java.lang.management.ManagementFactory
import java.lang.management.MemoryType
import java.nio.file.Paths
import java.util.Base64

/** Commands of `benchmarks/kotlin.py`; times are seconds of this process's clock. */
internal class BenchCommands {
    private val segments = HashMap<String, Segment>()
    private val embedders = HashMap<Pair<String, Int>, Embedder>()

    fun run(command: JsonObject): Any? = when (val verb = command.text("verb")) {
        "scan" -> scan(command)
        "open" -> open(command)
        "embed" -> embed(command)
        "heap" -> mapOf("peak_bytes" to peakHeap(), "java" to System.getProperty("java.version"))
        else -> error("there is no verb $verb")
    }

    /** Times top-k in the scan file of an index, `rounds` times. */
    private fun scan(command: JsonObject): Map<String, Any?> {
        val segment = segments.getOrPut(command.text("index")) { segmentOf(command.text("index")) }
        val query = Query(quantisedOf(command), command["k"].asInt)
        var best = topK(segment, query, null, command["threads"].asInt)
        val times = List(command["rounds"].asInt) {
            seconds { best = topK(segment, query, null, command["threads"].asInt) }
        }
        return mapOf("seconds" to times, "ids" to best.ids.toList(), "scores" to best.scores.map { it.toDouble() })
    }

    /** Times opening an index with its scan file, and the first search in it. */
    private fun open(command: JsonObject): Map<String, Any?> {
        val times = List(command["rounds"].asInt) {
            seconds {
                Index(Paths.get(command.text("index")), SqliteJdbc).use { index ->
                    val matrix = ScanMatrix.load(index, activeModel(index))
                    matrix.search(Query(quantisedOf(command), command["k"].asInt))
                }
            }
        }
        return mapOf("seconds" to times)
    }

    /** Times one text or one decoded photo, `rounds` times; the first call of a bundle loads its graphs and does not count. */
    private fun embed(command: JsonObject): Map<String, Any?> {
        val (bundle, threads) = command.text("bundle") to command["threads"].asInt
        val embedder =
            embedders.getOrPut(bundle to threads) {
                Embedder.open(Bundle.load(Paths.get(bundle)), OrtSessions(threads = threads))
            }
        val image = command.value("image")?.asJsonObject?.let(::rgbOf)
        val call = { if (image == null) embedder.embedText(command.text("text")) else embedder.embedImage(image) }
        val vector = call()
        val times = List(command["rounds"].asInt) { seconds { call() } }
        return mapOf("seconds" to times, "vector" to vector.map { it.toDouble() })
    }

    private fun rgbOf(entry: JsonObject): RgbImage {
        val pixels = Base64.getDecoder().decode(entry.text("pixels"))
        return RgbImage(entry["width"].asInt, entry["height"].asInt, pixels)
    }

    private fun segmentOf(path: String) = Index(Paths.get(path), SqliteJdbc).use { index ->
        checkNotNull(openScanFile(scanPath(index.path), index, activeModel(index))) { "no valid scan file" }.rows
    }

    private fun activeModel(index: Index): Model = checkNotNull(index.activeModel()) { "the index has no model" }

    private fun peakHeap(): Long =
        ManagementFactory.getMemoryPoolMXBeans().filter { it.type == MemoryType.HEAP }.sumOf { it.peakUsage.used }

    private fun seconds(work: () -> Unit): Double {
        val begun = System.nanoTime()
        work()
        return (System.nanoTime() - begun) / 1e9
    }
}
