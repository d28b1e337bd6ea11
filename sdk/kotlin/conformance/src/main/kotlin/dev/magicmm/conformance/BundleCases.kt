package dev.magicmm.conformance

import dev.magicmm.Bundle
import dev.magicmm.MagicError
import java.nio.file.Files
import java.nio.file.Path
import java.security.MessageDigest
import java.util.Comparator

private const val OUTSIDE = "text graph"

/** Cases of `bundle.json`: a whole bundle inline, written to a folder and opened. */
internal fun runBundle(case: Case): Any {
    val folder = Files.createTempDirectory("magicmm-case")
    try {
        val bundle = Bundle.load(write(case.inner("input"), folder))
        val manifest = bundle.manifest
        return mapOf(
            "id" to manifest.id,
            "architecture" to manifest.architecture,
            "dim" to manifest.dim,
            "roles" to manifest.roles.keys.sorted(),
            "fingerprint" to bundle.fingerprint,
            "total_bytes" to bundle.totalBytes,
            "check_hashes" to codeOf { bundle.checkHashes() },
        )
    } finally {
        Files.walk(folder).use { paths -> paths.sorted(Comparator.reverseOrder()).forEach(Files::delete) }
    }
}

/** The bundle; `outside.bin` lies beside it, with the bytes of the text graph. */
private fun write(given: Case, folder: Path): Path {
    val bundle = Files.createDirectory(folder.resolve("case.magicmm"))
    Files.write(folder.resolve("outside.bin"), OUTSIDE.toByteArray())
    for ((name, content) in given.textsByName("files")) {
        val path = bundle.resolve(name)
        Files.createDirectories(path.parent)
        Files.write(path, bytesOf(content))
    }
    for ((name, target) in given.textsByName("links")) {
        Files.createSymbolicLink(bundle.resolve(name), folder.fileSystem.getPath(target))
    }
    val hasText = "manifest_text" in given
    if (hasText) Files.write(bundle.resolve("manifest.json"), given.text("manifest_text").toByteArray())
    return bundle
}

private fun codeOf(action: () -> Unit): String? = try {
    action()
    null
} catch (error: MagicError) {
    error.code.value
}

private fun bytesOf(hex: String): ByteArray = hex.chunked(2).map { it.toInt(16).toByte() }.toByteArray()

internal fun sha256(bytes: ByteArray): String =
    MessageDigest.getInstance("SHA-256").digest(bytes).joinToString("") { "%02x".format(it) }
