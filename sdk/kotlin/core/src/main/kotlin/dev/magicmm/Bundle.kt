package dev.magicmm

import java.io.IOException
import java.nio.charset.CharacterCodingException
import java.nio.file.Files
import java.nio.file.InvalidPathException
import java.nio.file.Path
import java.nio.file.Paths

/**
 * A `NAME.magicmm` folder whose manifest was read and whose files are all there with the listed sizes. Immutable.
 *
 * @property path The folder.
 * @property manifest What the bundle says of itself.
 */
public class Bundle private constructor(public val path: Path, public val manifest: Manifest) {
    /**
     * What vectors depend on, as 64 hex digits; an index refuses vectors of another fingerprint.
     *
     * Covers weights, quantisation, preprocessing, text handling, roles and dimension, not the runtime, so that an index
     * made on a desktop serves on a phone.
     */
    public val fingerprint: String by lazy {
        val facts = FINGERPRINT_KEYS.associateWith { manifest.raw[it] }
        val tokenizer = manifest.files.getValue(manifest.text.tokenizer).sha256
        sha256().digest(canonicalJson(facts + ("tokenizer" to tokenizer)).toByteArray()).toHex()
    }

    /** The size of all listed files in bytes. */
    public val totalBytes: Long get() = manifest.files.values.sumOf { it.bytes }

    /**
     * The path of a listed file.
     *
     * @throws MagicError `bundle_invalid` when the manifest does not list it.
     */
    public fun file(name: String): Path {
        if (name !in manifest.files) throw bundleInvalid("'$name' is not listed in the manifest of $path.")
        return path.resolve(name)
    }

    /**
     * Hash every file and compare with the manifest.
     *
     * @throws MagicError `bundle_invalid`, naming every file that differs.
     */
    public fun checkHashes() {
        val wrong = manifest.files.filter { (name, entry) -> hashOf(file(name)) != entry.sha256 }.keys
        if (wrong.isNotEmpty()) {
            throw bundleInvalid("$path: the content of ${wrong.joinToString()} is not what the manifest lists.")
        }
    }

    /**
     * Hash every file, run the golden cases and say how far this machine drifts from them.
     *
     * @param sessions What runs the graphs.
     * @throws MagicError `bundle_invalid` when a hash differs or the golden cases cannot be read, `runtime_failed`; drift
     *   is reported, not thrown.
     */
    public fun verify(sessions: SessionFactory): VerifyReport = verifyBundle(this, sessions)

    private fun checkFile(name: String) {
        val file = path.resolve(name)
        val expected = manifest.files.getValue(name).bytes
        val size =
            try {
                if (!file.toRealPath().startsWith(path.toRealPath())) {
                    throw bundleInvalid("$name of $path is a link that leaves the bundle.")
                }
                Files.size(file)
            } catch (error: IOException) {
                throw bundleInvalid("$name of $path cannot be read (${saidBy(error)}).", cause = error)
            }
        if (!Files.isRegularFile(file) || size != expected) {
            throw bundleInvalid("$name of $path has $size bytes, the manifest lists $expected.")
        }
    }

    public companion object {
        private const val MANIFEST_NAME = "manifest.json"
        private const val MOST_MANIFEST_BYTES = 4L shl 20
        private val FINGERPRINT_KEYS =
            listOf("architecture", "dim", "weights", "quantisation", "image", "text", "tokens", "roles", "composed")

        /**
         * Open a bundle folder; sizes are checked here, contents by [checkHashes] and [verify].
         *
         * @throws MagicError `bundle_invalid` (missing, wrong size, a path that leaves the folder) or `bundle_too_new`.
         */
        @JvmStatic
        public fun load(path: Path): Bundle {
            val bundle = Bundle(path, parseManifest(manifestText(path)))
            bundle.manifest.files.keys.forEach(bundle::checkFile)
            return bundle
        }

        /** Open a bundle folder by its path; see the other `load`. */
        @JvmStatic
        public fun load(path: String): Bundle = try {
            load(Paths.get(path))
        } catch (error: InvalidPathException) {
            throw bundleInvalid("$path is no path.", GIVE_A_FOLDER, error)
        }

        private fun manifestText(folder: Path): String {
            val path = folder.resolve(MANIFEST_NAME)
            try {
                if (Files.size(path) > MOST_MANIFEST_BYTES) throw bundleInvalid("$path is larger than any manifest.")
                return Files.readAllBytes(path).toText()
            } catch (error: CharacterCodingException) {
                throw bundleInvalid("$path is not UTF-8.", cause = error)
            } catch (error: IOException) {
                val said = "$folder is not a bundle: cannot read $MANIFEST_NAME (${saidBy(error)})."
                throw bundleInvalid(said, GIVE_A_FOLDER, error)
            }
        }

        private const val GIVE_A_FOLDER = "Give a NAME.magicmm folder."
    }
}

private fun hashOf(path: Path): String {
    val digest = sha256()
    try {
        Files.newInputStream(path).use { stream ->
            val buffer = ByteArray(1 shl 20)
            while (true) {
                val count = stream.read(buffer)
                if (count < 0) break
                digest.update(buffer, 0, count)
            }
        }
    } catch (error: IOException) {
        throw bundleInvalid("$path cannot be read (${saidBy(error)}).", cause = error)
    }
    return digest.digest().toHex()
}
