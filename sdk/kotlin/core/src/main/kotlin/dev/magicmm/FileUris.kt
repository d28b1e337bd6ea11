package dev.magicmm

import java.io.ByteArrayOutputStream
import java.net.URI
import java.net.URISyntaxException
import java.nio.file.Path
import java.nio.file.Paths

// URIs of files: percent-encoded ASCII of the bytes that the system stores as names (docs/FORMAT.md, part 4).

private const val SAFE = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-~!$&'()+,;=@"

/** Returns a folder's URI, ending in "/", whatever bytes its name holds. */
public fun folderUri(path: Path): String = pathUri(path).let { if (it.endsWith("/")) it else "$it/" }

/** Returns the file URI of a path (made absolute, links kept). */
public fun pathUri(path: Path): String {
    val absolute = path.toAbsolutePath().normalize()
    val names = absolute.map { quoteName(it) }
    val root = absolute.root.toString().replace('\\', '/').trim('/')
    val drive = if (root.isEmpty()) emptyList() else listOf(quote(root.toByteArray()))
    return "file:///" + (drive + names).joinToString("/")
}

/**
 * Returns the path of a file URI.
 *
 * @throws MagicError `argument_invalid` for a URI of another kind.
 */
internal fun uriPath(uri: String): Path {
    if (!uri.startsWith("file:///")) throw noFile(uri, null)
    return try {
        // By way of a URI, since no string has odd bytes; quoted anew, since a damaged index may hold anything.
        val names = uri.substring("file://".length).split("/")
        Paths.get(URI("file://" + names.joinToString("/") { quote(unquote(it)) }))
    } catch (error: IllegalArgumentException) {
        throw noFile(uri, error)
    } catch (error: URISyntaxException) {
        throw noFile(uri, error)
    }
}

private fun noFile(uri: String, cause: Throwable?): MagicError =
    MagicError(ErrorCode.ARGUMENT_INVALID, "\"$uri\" is no file on this machine.", "Use its own source.", cause)

/** Returns the last name of a path, quoted byte by byte. */
internal fun quoteName(name: Path): String = quote(nameBytes(name))

/** Returns the bytes of the last name of a path as the system stores them. */
internal fun nameBytes(name: Path): ByteArray {
    val text = name.fileName.toString()
    if (text.all { it.code in 1..0x7E }) return text.toByteArray(Charsets.US_ASCII)
    // A string may have lost bytes that are not in the system's encoding; the URI has them all.
    val raw = Paths.get("/").resolve(name.fileName).toUri().rawPath
    return unquote(raw.trimEnd('/').substringAfterLast('/'))
}

private fun quote(bytes: ByteArray): String {
    val text = StringBuilder(bytes.size)
    for (byte in bytes) {
        val char = (byte.toInt() and 0xFF).toChar()
        if (char in SAFE) text.append(char) else text.append("%%%02X".format(byte))
    }
    return text.toString()
}

private fun unquote(text: String): ByteArray {
    val quoted = text.toByteArray()
    val bytes = ByteArrayOutputStream(quoted.size)
    var place = 0
    while (place < quoted.size) {
        val code = if (quoted[place] == PERCENT) hexCode(quoted, place + 1) else null
        bytes.write(code ?: quoted[place].toInt())
        place += if (code == null) 1 else 3
    }
    return bytes.toByteArray()
}

private const val PERCENT = '%'.code.toByte()

private fun hexCode(bytes: ByteArray, at: Int): Int? {
    if (at + 2 > bytes.size) return null
    val high = Character.digit(bytes[at].toInt(), 16)
    val low = Character.digit(bytes[at + 1].toInt(), 16)
    return if (high < 0 || low < 0) null else 16 * high + low
}
