package dev.magicmm.conformance

import com.google.gson.JsonObject
import dev.magicmm.Json
import dev.magicmm.MagicError
import dev.magicmm.canonicalJson
import java.io.PrintStream
import java.nio.file.Files
import java.nio.file.Path
import java.nio.file.Paths
import kotlin.system.exitProcess

private const val USAGE =
    "usage: cases FILE... | vectors FOLDER | gallery < one JSON command a line | bench < one JSON command a line"

/**
 * Runs what Python compares with itself. `cases FILE...` runs the cases of vector files, `vectors FOLDER` those of searches
 * and of the index file; each prints one JSON line a case: `file`, `case` and `result`, or `error` with a code in place of
 * the result. What the results are worth is for the reader to say. The other verbs obey JSON commands on stdin, one a line,
 * and answer with one line each.
 */
public fun main(arguments: Array<String>) {
    val rest = arguments.drop(1).map { Paths.get(it) }
    when {
        rest.isNotEmpty() && arguments[0] == "cases" -> runCases(rest)

        rest.size == 1 && arguments[0] == "vectors" -> runIndexVectors(rest.single())

        arguments.contentEquals(arrayOf("gallery")) -> obey(GalleryCommands()::run)

        arguments.contentEquals(arrayOf("bench")) -> obey(BenchCommands()::run)

        else -> {
            System.err.println(USAGE)
            exitProcess(2)
        }
    }
}

private fun obey(run: (JsonObject) -> Any?) {
    generateSequence(::readlnOrNull).forEach { line -> answer(emptyMap()) { run(parse(line)) } }
}

private fun runCases(files: List<Path>) {
    PrintStream(System.out, false, "UTF-8").use { out ->
        for (file in files) runFile(file) { out.println(canonicalJson(it)) }
    }
}

private fun runFile(path: Path, emit: (Map<String, Any?>) -> Unit) {
    val file = path.fileName.toString()
    val run = runnerOf(file, path.toAbsolutePath().parent)
    val content = caseOf(Json.parse(String(Files.readAllBytes(path), Charsets.UTF_8)))
    for (case in content.list("cases").map(::caseOf)) {
        emit(mapOf("file" to file, "case" to case.text("name")) + outcome { run(case) })
    }
}

private fun outcome(run: () -> Any?): Pair<String, Any?> = try {
    "result" to run()
} catch (error: MagicError) {
    "error" to error.code.value
} catch (error: RuntimeException) {
    "error" to "crashed: $error" // which no case expects
}

/** What runs the cases of a file; [folder] holds the files that they name. */
private fun runnerOf(file: String, folder: Path): (Case) -> Any? = when (file) {
    "tokenizer.json" -> TextCases(folder)::run
    "resize.json" -> ::runResize
    "views.json" -> ::runViews
    "tiling.json" -> ::runTiling
    "quantise.json" -> ::runQuantise
    "packed.json" -> ::runPacked
    "bundle.json" -> ::runBundle
    "errors.json" -> ::runErrors
    "signals.json" -> ::runSignals
    "embed.json" -> EmbedCases()::run
    else -> throw IllegalArgumentException("Nothing here runs the cases of $file.")
}
