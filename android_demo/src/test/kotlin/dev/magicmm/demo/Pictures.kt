package dev.magicmm.demo

import org.junit.Assume.assumeTrue
import java.io.File

/** Photos in the public domain or under CC0 out of a scikit-image package; the test's caller says where that is. */
object Pictures {
    private val NAMES = listOf(
        "astronaut.png", "brick.png", "chelsea.png", "coffee.png", "grass.png", "gravel.png", "horse.png",
        "hubble_deep_field.jpg", "moon.png", "rocket.jpg",
    )

    /** The files; without them the test is skipped, and says why. */
    fun files(): List<File> {
        val folder = System.getProperty("magicmm.photos")
        assumeTrue("-Dmagicmm.photos does not name the folder skimage/data", !folder.isNullOrEmpty())
        return NAMES.map { File(folder, it) }.onEach { check(it.isFile) { "$it is missing" } }
    }
}
