package dev.magicmm.android

import android.Manifest
import android.content.Context
import android.content.pm.PackageManager
import android.os.Build

/** Which photos of the device the app may see. Ask again at every resume: a grant can change while the app is away. */
public enum class PhotoAccess {
    /** All of them. */
    FULL,

    /** Those that the user chose (Android 14 and later). */
    PARTIAL,

    /** None; what was indexed before stays indexed. */
    NONE,
    ;

    public companion object {
        /** What the app may see at this moment. */
        public fun of(context: Context): PhotoAccess = when {
            isGranted(context, readPermission()) -> FULL
            hasPartialGrants() && isGranted(context, Manifest.permission.READ_MEDIA_VISUAL_USER_SELECTED) -> PARTIAL
            else -> NONE
        }

        /**
         * What to ask the user for, in one request. Asking once more with partial access lets the user choose again.
         *
         * The place where a photo was taken has a permission of its own from Android 10 on; without it Android blanks
         * the place out of the bytes it hands over.
         */
        public fun permissions(): List<String> = buildList {
            add(readPermission())
            if (hasPartialGrants()) add(Manifest.permission.READ_MEDIA_VISUAL_USER_SELECTED)
            if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.Q) add(Manifest.permission.ACCESS_MEDIA_LOCATION)
        }

        private fun readPermission(): String = if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.TIRAMISU) {
            Manifest.permission.READ_MEDIA_IMAGES
        } else {
            Manifest.permission.READ_EXTERNAL_STORAGE
        }

        private fun hasPartialGrants(): Boolean = Build.VERSION.SDK_INT >= Build.VERSION_CODES.UPSIDE_DOWN_CAKE
    }
}

internal fun isGranted(context: Context, permission: String): Boolean =
    context.checkSelfPermission(permission) == PackageManager.PERMISSION_GRANTED
