package dev.magicmm.android

import android.content.Context
import android.content.Intent
import android.content.IntentFilter
import android.os.BatteryManager
import android.os.Build
import android.os.PowerManager

/** Reads battery, charger, power saving and heat; see [Governor]. */
public class DeviceConditions(context: Context) {
    private val context = context.applicationContext
    private val power = checkNotNull(this.context.getSystemService(PowerManager::class.java))

    /** The state at this moment, without touches. */
    public fun read(): DeviceState {
        // The battery's last broadcast stays with the system; no receiver is registered.
        val battery = context.registerReceiver(null, IntentFilter(Intent.ACTION_BATTERY_CHANGED))
        val level = battery?.getIntExtra(BatteryManager.EXTRA_LEVEL, -1) ?: -1
        val scale = battery?.getIntExtra(BatteryManager.EXTRA_SCALE, -1) ?: -1
        return DeviceState(
            batteryPercent = if (level >= 0 && scale > 0) 100 * level / scale else null,
            isCharging = (battery?.getIntExtra(BatteryManager.EXTRA_PLUGGED, 0) ?: 0) != 0,
            isPowerSave = power.isPowerSaveMode,
            thermalStatus = if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.Q) power.currentThermalStatus else 0,
        )
    }
}
