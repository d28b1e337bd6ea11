package dev.magicmm.android

import android.content.Context
import dev.magicmm.Bundle
import dev.magicmm.ErrorCode
import dev.magicmm.MagicError
import java.io.FileNotFoundException
import java.io.IOException
import java.nio.file.Files
import java.nio.file.Path
import java.nio.file.StandardCopyOption

/** Bundles that travel inside an app: runtimes need them as files. */
public object BundleAssets {
    /**
     * Copies a bundle folder out of the app's assets, once, to where backups do not look, and opens it. Every copied file is
     * compared with its hash; a copy that was interrupted, or is of another version of the app, is made again.
     *
     * @param name The folder in the assets, for example `nano.magicmm`.
     * @throws MagicError `bundle_invalid` when the assets lack a file or a hash differs, `bundle_too_new`,
     *   `storage_failed` when there is no space.
     */
    @JvmStatic
    public fun install(context: Context, name: String): Bundle {
        val target = context.noBackupFilesDir.toPath().resolve("magicmm").resolve(name)
        try {
            if (isCurrent(context, name, target)) return Bundle.load(target)
            val fresh = target.resolveSibling("$name.new")
            fresh.toFile().deleteRecursively()
            copy(context, name, fresh)
            Bundle.load(fresh).checkHashes()
            target.toFile().deleteRecursively()
            Files.move(fresh, target, StandardCopyOption.ATOMIC_MOVE)
            return Bundle.load(target)
        } catch (error: FileNotFoundException) {
            throw MagicError(
                ErrorCode.BUNDLE_INVALID,
                "The app has no $name, or only a part of it (${error.message}).",
                "Put the whole folder into the app's assets.",
                error,
            )
        } catch (error: IOException) {
            throw MagicError(
                ErrorCode.STORAGE_FAILED,
                "$name cannot be copied (${error.message}).",
                "Free ${sizeOfAssets(context, name) shr 20} MB and try again.",
                error,
            )
        }
    }

    /** The manifest lists the hash of every other file, so it tells versions apart. */
    private fun isCurrent(context: Context, name: String, target: Path): Boolean {
        val manifest = target.resolve(MANIFEST)
        if (!Files.exists(manifest)) return false
        val shipped = context.assets.open("$name/$MANIFEST").use { it.readBytes() }
        return shipped.contentEquals(Files.readAllBytes(manifest))
    }

    private fun copy(context: Context, path: String, target: Path) {
        val inner = context.assets.list(path).orEmpty()
        if (inner.isEmpty()) {
            context.assets.open(path).use { Files.copy(it, target) }
            return
        }
        Files.createDirectories(target)
        for (name in inner) copy(context, "$path/$name", target.resolve(name))
    }

    private fun sizeOfAssets(context: Context, path: String): Long {
        val inner = context.assets.list(path).orEmpty()
        if (inner.isNotEmpty()) return inner.sumOf { sizeOfAssets(context, "$path/$it") }
        return context.assets.open(path).use { it.available().toLong() }
    }

    private const val MANIFEST = "manifest.json"
}
