package dev.magicmm.android

import dev.magicmm.Bundle
import dev.magicmm.ErrorCode
import dev.magicmm.MagicError
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.RobolectricTestRunner
import org.robolectric.RuntimeEnvironment
import org.robolectric.annotation.Config
import java.nio.file.Files
import java.nio.file.Path
import java.nio.file.Paths

@RunWith(RobolectricTestRunner::class)
@Config(sdk = [26, 35])
class BundleAssetsTest {
    private val nano: Path = Paths.get(
        System.getProperty("magicmm.repository"),
        "sdk/python/magicmm/bundles/nano.magicmm",
    )
    private val installed: Path
        get() = RuntimeEnvironment.getApplication().noBackupFilesDir.toPath().resolve("magicmm/nano.magicmm")

    @Test
    fun anAppWithoutTheBundleSaysSo() {
        val error =
            assertThrows(MagicError::class.java) {
                BundleAssets.install(RuntimeEnvironment.getApplication(), "nano.magicmm")
            }
        assertEquals(ErrorCode.BUNDLE_INVALID, error.code)
    }

    @Test
    fun aBundleWithAWrongHashIsRefused() {
        copy(nano, installed)
        val weights = installed.resolve("image.onnx.data")
        val bytes = Files.readAllBytes(weights).also { it[it.size / 2] = (it[it.size / 2] + 1).toByte() }
        Files.write(weights, bytes)
        val bundle = Bundle.load(installed)
        assertEquals(ErrorCode.BUNDLE_INVALID, assertThrows(MagicError::class.java) { bundle.checkHashes() }.code)
    }

    private fun copy(from: Path, to: Path) {
        Files.createDirectories(to.parent)
        from.toFile().copyRecursively(to.toFile())
    }
}
