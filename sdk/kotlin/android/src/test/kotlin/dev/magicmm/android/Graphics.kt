package dev.magicmm.android

import android.graphics.Bitmap
import java.nio.ByteBuffer

/** Sets Robolectric's graphics up in this thread: done by two decoding threads at once, it may abort the process. */
fun warmUpGraphics() {
    Bitmap.createBitmap(1, 1, Bitmap.Config.ARGB_8888).copyPixelsToBuffer(ByteBuffer.allocate(4))
}
