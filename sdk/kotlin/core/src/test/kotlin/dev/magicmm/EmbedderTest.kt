package dev.magicmm

import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir
import java.nio.file.Path
import java.util.concurrent.Callable
import java.util.concurrent.CountDownLatch
import java.util.concurrent.Executors
import java.util.concurrent.TimeUnit
import kotlin.test.assertContentEquals
import kotlin.test.assertEquals
import kotlin.test.assertFalse
import kotlin.test.assertNotEquals
import kotlin.test.assertTrue

class EmbedderTest {
    @TempDir
    lateinit var folder: Path

    @Test
    fun `nothing is loaded until it is needed, and text never loads the image graph`() {
        val sessions = FakeSessions()
        val embedder = Embedder.open(dualBundle(folder), sessions)
        embedder.tokenIds("red dog")
        assertEquals(0, sessions.opened.get())
        embedder.embedText("red dog")
        embedder.embedText("dog")
        assertEquals(1, sessions.opened.get())
        embedder.embedImage(picture(9, 9))
        assertEquals(2, sessions.opened.get())
    }

    @Test
    fun `release closes what is open and the next call loads again`() {
        val sessions = FakeSessions()
        val embedder = Embedder.open(visionLanguageBundle(folder), sessions)
        val first = embedder.embedQuery("red", picture(9, 5))
        embedder.release()
        assertEquals(2, sessions.closed.get())
        assertContentEquals(first, embedder.embedQuery("red", picture(9, 5)))
        embedder.use { assertEquals(4, sessions.opened.get()) }
        assertEquals(4, sessions.closed.get())
        embedder.release()
        assertEquals(4, sessions.closed.get())
    }

    @Test
    fun `release waits for a graph that is running`() {
        val isRunning = CountDownLatch(1)
        val mayEnd = CountDownLatch(1)
        val sessions =
            FakeSessions { name, inputs, output ->
                isRunning.countDown()
                assertTrue(mayEnd.await(20, TimeUnit.SECONDS))
                sums(name, inputs, output)
            }
        val embedder = Embedder.open(dualBundle(folder), sessions)
        val pool = Executors.newFixedThreadPool(2)
        val vector = pool.submit(Callable { embedder.embedText("red") })
        assertTrue(isRunning.await(20, TimeUnit.SECONDS))
        val release = pool.submit(embedder::release)
        assertFalse(release.isDone)
        assertEquals(0, sessions.closed.get())
        mayEnd.countDown()
        assertEquals(DIM, vector.get(20, TimeUnit.SECONDS).size)
        release.get(20, TimeUnit.SECONDS)
        assertEquals(1, sessions.closed.get())
        pool.shutdown()
    }

    @Test
    fun `many threads get the vectors that one thread gets`() {
        val sessions = FakeSessions()
        val embedder = Embedder.open(visionLanguageBundle(folder), sessions)
        val expected = List(20) { embedder.embedQuery("red dog", picture(5 + it, 9, it)) }
        val pool = Executors.newFixedThreadPool(8)
        repeat(10) {
            val found =
                expected.indices.map { place ->
                    pool.submit(
                        Callable {
                            if (place == 7) embedder.release()
                            embedder.embedQuery("red dog", picture(5 + place, 9, place))
                        },
                    )
                }
            found.forEachIndexed { place, vector -> assertContentEquals(expected[place], vector.get()) }
        }
        pool.shutdown()
        embedder.close()
        assertEquals(sessions.opened.get(), sessions.closed.get())
    }

    @Test
    fun `photos together come out as alone, however many`() {
        val embedder = Embedder.open(dualBundle(folder), FakeSessions())
        val photos = List(35) { picture(10 + it, 20, it) }
        val together = embedder.embedImages(photos)
        photos.forEachIndexed { place, photo -> assertContentEquals(embedder.embedImage(photo), together[place]) }
        assertEquals(emptyList(), embedder.embedImages(emptyList()))
        assertEquals(emptyList(), embedder.embedPixels(emptyList()))
    }

    @Test
    fun `prepared pixels give the same vector`() {
        val embedder = Embedder.open(dualBundle(folder), FakeSessions())
        val pixels = embedder.prepare(picture(30, 20))
        assertEquals(2, pixels.count)
        assertContentEquals(embedder.embedImage(picture(30, 20)), embedder.embedPixels(listOf(pixels)).single())
    }

    @Test
    fun `a prefix is passed whole, and with length 0 where a role has none`() {
        val embedder = Embedder.open(visionLanguageBundle(folder), FakeSessions())
        val query = embedder.embedText("red")
        val photo = embedder.embedImage(picture(9, 9))
        assertNotEquals(0f, query[2])
        assertEquals(0f, photo[2])
    }

    @Test
    fun `a composed graph reads the visual tokens and the ids of its role in one pass`() {
        val asked = ArrayList<Pair<String, String?>>()
        val sessions =
            FakeSessions { name, inputs, output ->
                asked += name to output
                sums(name, inputs, output)
            }
        val embedder = Embedder.open(composingBundle(folder), sessions)
        val photo = picture(30, 20)
        val found = embedder.embedQuery("red", photo)
        val views = embedder.prepare(photo).data
        val last = 1f + views[SIDE * SIDE * 3 + DIM - 1]
        // head, image_before, image_after, "dog", "red", tail
        val places = listOf(1, 2, 5, 2, 1, 4).withIndex().sumOf { (place, id) -> (place + 1) * id }
        val expected = unit(floatArrayOf(places.toFloat(), 6f, 1f + views[0], last), "expected")
        assertContentEquals(expected, found)
        assertEquals(listOf("image.onnx" to "visual", "composed.onnx" to null), asked)
    }

    @Test
    fun `words are added to what a composed graph says when they have a weight`() {
        val photo = picture(30, 20)
        val onePass = Embedder.open(composingBundle(folder.resolve("one")), FakeSessions())
        val seen = onePass.embedQuery("red", photo)
        val words = onePass.embedText("red")
        for (weight in listOf(-0.5, 2.0)) {
            val added = Embedder.open(composingBundle(folder.resolve("$weight"), weight), FakeSessions())
            val expected = unit(FloatArray(DIM) { weight.toFloat() * words[it] + seen[it] }, "expected")
            assertContentEquals(expected, added.embedQuery("red", photo))
            assertContentEquals(words, added.embedText("red"))
        }
    }

    @Test
    fun `photos of a bundle that composes ask for the vector alone, and leave with the composed graph`() {
        val asked = ArrayList<String?>()
        val sessions =
            FakeSessions { name, inputs, output ->
                asked += output
                sums(name, inputs, output)
            }
        val embedder = Embedder.open(composingBundle(folder.resolve("one")), sessions)
        val photo = embedder.embedImage(picture(30, 20))
        val late = Embedder.open(dualBundle(folder.resolve("other")), FakeSessions())
        assertContentEquals(late.embedImage(picture(30, 20)), photo)
        assertEquals(listOf<String?>(null), asked)
        embedder.embedQuery("red", picture(30, 20))
        embedder.embedText("red")
        assertEquals(3, sessions.opened.get())
        embedder.releaseImages()
        assertEquals(2, sessions.closed.get())
        embedder.embedText("red")
        assertEquals(3, sessions.opened.get())
    }

    @Test
    fun `visual tokens take no room from the text of a composed graph`() {
        val embedder = Embedder.open(composingBundle(folder), FakeSessions())
        val longest = "red ".repeat(12 - 4 - 1) // 4 constant ids and the "dog" of the text line
        val expected = embedder.embedQuery(longest, picture(9, 9))
        assertCode(ErrorCode.TEXT_INVALID) { embedder.embedQuery(longest + "red", picture(9, 9)) }
        assertContentEquals(expected, embedder.embedQuery(longest + "red", picture(9, 9), truncate = true))
    }

    @Test
    fun `visual tokens and composed vectors of another shape`() {
        val shapes = listOf("visual" to listOf(1, DIM), "visual" to listOf(2, 2, DIM), null to listOf(1, 2, DIM))
        shapes.forEachIndexed { place, (name, shape) ->
            val wrong = Tensor.Floats(shape, FloatArray(shape.reduce(Int::times)) { 1f })
            val sessions =
                FakeSessions { graph, inputs, output -> if (output == name) wrong else sums(graph, inputs, output) }
            val embedder = Embedder.open(composingBundle(folder.resolve("$place")), sessions)
            val error = assertCode(ErrorCode.RUNTIME_FAILED) { embedder.embedQuery("red", picture(3, 3)) }
            val said = if (name == null) "The composed graph gave " else "The image graph gave visual tokens "
            assertTrue(error.message.startsWith(said + shape))
        }
    }

    @Test
    fun `what a caller cannot ask for`() {
        val embedder = Embedder.open(dualBundle(folder), FakeSessions())
        assertCode(ErrorCode.ARGUMENT_INVALID) { embedder.embedText("red", role = "poem") }
        assertCode(ErrorCode.ARGUMENT_INVALID) { embedder.embedImages(emptyList(), role = "poem") }
        assertCode(ErrorCode.ARGUMENT_INVALID) { embedder.embedPixels(emptyList(), role = "poem") }
        assertCode(ErrorCode.ARGUMENT_INVALID) { embedder.decodeSide("poem") }
        assertCode(ErrorCode.ARGUMENT_INVALID) { embedder.embedQuery() }
        assertCode(ErrorCode.TEXT_INVALID) { embedder.embedText(" \u00a0\n") }
        assertCode(ErrorCode.TEXT_INVALID) { embedder.embedText("red ".repeat(20)) }
        assertEquals(DIM, embedder.embedText("red ".repeat(20), truncate = true).size)
        val other = Pixels(1, 4, ByteArray(48))
        assertCode(ErrorCode.ARGUMENT_INVALID) { embedder.embedPixels(listOf(embedder.prepare(picture(3, 3)), other)) }
        assertCode(ErrorCode.ARGUMENT_INVALID) { Pixels(1, 4, ByteArray(47)) }
        assertEquals(2 * SIDE, embedder.decodeSide())
    }

    @Test
    fun `graphs that give no vector`() {
        val outputs =
            listOf(
                Tensor.Floats(listOf(1, DIM), floatArrayOf(1f, Float.NaN, 1f, 1f)),
                Tensor.Floats(listOf(1, DIM), floatArrayOf(1f, Float.POSITIVE_INFINITY, 1f, 1f)),
                Tensor.Floats(listOf(1, DIM), FloatArray(DIM)),
                Tensor.Floats(listOf(2, DIM), FloatArray(2 * DIM) { 1f }),
                Tensor.Floats(listOf(DIM), FloatArray(DIM) { 1f }),
            )
        for (output in outputs) {
            val embedder = Embedder.open(dualBundle(folder), FakeSessions { _, _, _ -> output })
            assertCode(ErrorCode.RUNTIME_FAILED) { embedder.embedText("red") }
        }
        val visual = FakeSessions { _, _, _ -> Tensor.Floats(listOf(1, 2, DIM + 1), FloatArray(2 * DIM + 2)) }
        val embedder = Embedder.open(visionLanguageBundle(folder.resolve("other")), visual)
        assertCode(ErrorCode.RUNTIME_FAILED) { embedder.embedImage(picture(3, 3)) }
    }

    @Test
    fun `files that turn out to be broken only now`() {
        val short = visionLanguageBundle(folder.resolve("short"), rows = 4)
        assertCode(ErrorCode.BUNDLE_INVALID) { Embedder.open(short, FakeSessions()).embedText("query") }
        val broken = mapOf("prefix/query.safetensors" to byteArrayOf(1, 2, 3))
        val prefix = visionLanguageBundle(folder.resolve("prefix"), broken)
        assertCode(ErrorCode.BUNDLE_INVALID) { Embedder.open(prefix, FakeSessions()).embedText("red") }
        val tokenizer = dualBundle(folder.resolve("tokenizer"), mapOf("tokenizer.json" to "{}".toByteArray()))
        assertCode(ErrorCode.BUNDLE_INVALID) { Embedder.open(tokenizer, FakeSessions()).embedText("red") }
    }

    @Test
    fun `golden cases that cannot be read`() {
        val broken =
            listOf(
                "",
                "[]",
                "{}",
                """{"cases": [7]}""",
                """{"cases": [{"name": "x"}]}""",
                """{"cases": [{"name": "x", "text": "red", "vector": [1, 0, 0, 0]}]}""",
                """{"cases": [{"name": "x", "text": "red", "ids": [1], "vector": [0, 0, 0, 0]}]}""",
                """{"cases": [{"name": "x", "text": "red", "ids": [1], "vector": [1, 0]}]}""",
                """{"cases": [{"name": "x", "image": "none.rgb", "width": 1, "height": 1, "vector": [1, 0, 0, 0]}]}""",
            )
        broken.forEachIndexed { place, text ->
            val bundle = dualBundle(folder.resolve("$place"), mapOf("golden.json" to text.toByteArray()))
            assertCode(ErrorCode.BUNDLE_INVALID) { bundle.verify(FakeSessions()) }
        }
    }

    @Test
    fun `a bundle without golden cases proves nothing, and drift is reported`() {
        val none = dualBundle(folder.resolve("none"), mapOf("golden.json" to """{"cases": []}""".toByteArray()))
        assertFalse(none.verify(FakeSessions()).passes)
        val case = """{"cases": [{"name": "x", "text": "red", "ids": [1, 1], "vector": [1, -1, 1, -1]}]}"""
        val report = dualBundle(
            folder.resolve("one"),
            mapOf("golden.json" to case.toByteArray()),
        ).verify(FakeSessions())
        assertTrue(report.checks.single().inputsEqual)
        assertFalse(report.passes)
        assertTrue(report.leastCosine < 0.999)
    }
}
