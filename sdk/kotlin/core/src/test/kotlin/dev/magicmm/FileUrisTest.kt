package dev.magicmm

import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.assertThrows
import java.nio.file.Paths

class FileUrisTest {
    @Test
    fun `names are quoted byte by byte, as in Python`() {
        assertEquals("file:///p/a%20b%25%23%3F.png", pathUri(Paths.get("/p/a b%#?.png")))
        assertEquals("file:///p/~!\$&'()+,;=@-_.x", pathUri(Paths.get("/p/~!\$&'()+,;=@-_.x")))
        assertEquals("file:///p/%5B1%5D%7B%7D%0A%22", pathUri(Paths.get("/p/[1]{}\n\"")))
        assertEquals("file:///", folderUri(Paths.get("/")))
        assertEquals("file:///a/c/", folderUri(Paths.get("/a/./b/../c")))
    }

    @Test
    fun `paths come back`() {
        for (path in listOf("/p/a b%#?.png", "/p/[1]{}\n\"", "/x/%41", "/")) {
            assertEquals(Paths.get(path), uriPath(pathUri(Paths.get(path))))
        }
    }

    @Test
    fun `bytes that are no text survive`() {
        val uri = "file:///p/caf%C3%A9/%FF%FE.png"
        assertEquals(uri, pathUri(uriPath(uri)))
    }

    @Test
    fun `other kinds of URIs are refused`() {
        for (uri in listOf("phone://camera/1", "file://host/x", "", "file:///a%00b")) {
            assertEquals(ErrorCode.ARGUMENT_INVALID, assertThrows<MagicError> { uriPath(uri) }.code)
        }
    }
}
