package dev.magicmm.demo

import dev.magicmm.android.IndexJobService
import dev.magicmm.android.Indexer

/** Indexes while the device is charging and idle. */
class DemoJobService : IndexJobService() {
    override fun indexer(): Indexer = (application as DemoApp).services.indexer
}
