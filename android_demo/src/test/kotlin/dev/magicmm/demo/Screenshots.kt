package dev.magicmm.demo

import android.app.Activity
import android.graphics.Bitmap
import android.graphics.Canvas
import java.io.File

/** Draws what an activity shows into a small PNG, when the test's caller names a folder for them. */
fun Activity.screenshot(name: String) {
    val folder = System.getProperty("magicmm.screenshots")
    if (folder.isNullOrEmpty()) return
    val view = window.decorView
    val full = Bitmap.createBitmap(view.width, view.height, Bitmap.Config.ARGB_8888)
    view.draw(Canvas(full))
    val small = Bitmap.createScaledBitmap(full, WIDTH, WIDTH * view.height / view.width, true)
    File(folder).mkdirs()
    File(folder, "android-$name.png").outputStream().use { small.compress(Bitmap.CompressFormat.PNG, 100, it) }
}

private const val WIDTH = 360
