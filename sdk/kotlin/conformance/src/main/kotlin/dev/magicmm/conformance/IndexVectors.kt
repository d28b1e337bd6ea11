package dev.magicmm.conformance

import com.google.gson.JsonObject
import java.nio.file.Files
import java.nio.file.Path

/** Runs `search.json` with one thread and with two, and `index_v1.json` with the scan file and without. */
internal fun runIndexVectors(folder: Path) {
    for (threads in listOf(1, 2)) {
        forEachCase(folder, "search.json", "$threads threads") { searchCase(it, threads) }
    }
    for (withScanFile in listOf(true, false)) {
        val copy = Files.createTempDirectory("magicmm-conformance")
        try {
            val names = listOf("index_v1.db") + if (withScanFile) listOf("index_v1.db.scan") else emptyList()
            for (name in names) Files.copy(folder.resolve(name), copy.resolve(name))
            val variant = if (withScanFile) "with scan file" else "without scan file"
            forEachCase(folder, "index_v1.json", variant) { indexCase(copy.resolve("index_v1.db"), it) }
        } finally {
            copy.toFile().deleteRecursively()
        }
    }
}

private fun forEachCase(folder: Path, file: String, variant: String, run: (JsonObject) -> Any?) {
    val cases = parse(String(Files.readAllBytes(folder.resolve(file)))).getAsJsonArray("cases")
    for (case in cases.map { it.asJsonObject }) {
        answer(mapOf("file" to file, "variant" to variant, "case" to case.text("name"))) {
            run(case.getAsJsonObject("input"))
        }
    }
}
