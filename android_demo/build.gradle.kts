// The app for phones: the same sources that Maven compiles and tests, with onnxruntime-android and the built-in model.
@Suppress("UNCHECKED_CAST")
val versions = gradle.extra["versions"] as Map<String, String>

fun version(name: String): String = versions.getValue(name)

buildscript {
    @Suppress("UNCHECKED_CAST")
    val versions = gradle.extra["versions"] as Map<String, String>
    repositories {
        google()
        mavenCentral()
    }
    dependencies {
        classpath("com.android.tools.build:gradle:${versions.getValue("android-gradle-plugin.version")}")
        classpath("org.jetbrains.kotlin:kotlin-gradle-plugin:${versions.getValue("kotlin.version")}")
    }
}

apply(plugin = "com.android.application")
apply(plugin = "org.jetbrains.kotlin.android")

// The table of places, where Maven packages it, too.
val places =
    tasks.register<Sync>("places") {
        from("../sdk/python/magicmm/places.json")
        into(layout.buildDirectory.dir("places/magicmm"))
    }

configure<com.android.build.api.dsl.ApplicationExtension> {
    namespace = "dev.magicmm.demo"
    compileSdk = 35
    defaultConfig {
        applicationId = "dev.magicmm.demo"
        minSdk = 26
        targetSdk = 35
        versionCode = 1
        versionName = version("magicmm")
    }
    // The modules of the SDK are compiled into the app.
    sourceSets.getByName("main") {
        for (module in listOf("core", "ort", "android")) kotlin.srcDir("../sdk/kotlin/$module/src/main/kotlin")
        assets.srcDir("../sdk/python/magicmm/bundles")
        resources.srcDir(layout.buildDirectory.dir("places").get().asFile)
    }
    // Weights are read by path, after they were copied; compressing them would only cost time.
    androidResources.noCompress += listOf("onnx", "data", "json")
    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_11
        targetCompatibility = JavaVersion.VERSION_11
    }
}

tasks.matching { it.name == "preBuild" }.configureEach { dependsOn(places) }

tasks.withType<org.jetbrains.kotlin.gradle.tasks.KotlinCompile>().configureEach {
    compilerOptions {
        jvmTarget.set(org.jetbrains.kotlin.gradle.dsl.JvmTarget.JVM_11)
        optIn.add("dev.magicmm.MagicInternals")
    }
}

dependencies {
    "implementation"("com.microsoft.onnxruntime:onnxruntime-android:${version("onnxruntime.version")}")
    "implementation"("org.jetbrains.kotlinx:kotlinx-coroutines-android:${version("kotlinx-coroutines.version")}")
}
