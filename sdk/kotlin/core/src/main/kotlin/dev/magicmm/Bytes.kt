package dev.magicmm

import java.nio.ByteBuffer
import java.security.MessageDigest

internal fun sha256(): MessageDigest = MessageDigest.getInstance("SHA-256")

/** Small hex digits, two a byte. */
internal fun ByteArray.toHex(): String = joinToString("") { byte -> "%02x".format(byte) }

/** The text that these bytes spell; throws `CharacterCodingException` for what is no UTF-8 instead of replacing it. */
internal fun ByteArray.toText(): String = Charsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(this)).toString()
