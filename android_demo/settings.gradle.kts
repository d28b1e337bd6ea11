// For Android Studio. Versions are those of sdk/kotlin/pom.xml, the one place that has them.
import javax.xml.parsers.DocumentBuilderFactory

pluginManagement {
    repositories {
        google()
        mavenCentral()
        gradlePluginPortal()
    }
}

dependencyResolutionManagement {
    repositories {
        google()
        mavenCentral()
    }
}

val pom =
    DocumentBuilderFactory.newInstance().newDocumentBuilder()
        .parse(settingsDir.resolve("../sdk/kotlin/pom.xml")).documentElement

val properties = pom.getElementsByTagName("properties").item(0).childNodes

val versions = (0 until properties.length).map { properties.item(it) }
    .filter { it.nodeName.endsWith(".version") }
    .associate { it.nodeName to it.textContent.trim() }
gradle.extra["versions"] = versions + ("magicmm" to pom.getElementsByTagName("version").item(0).textContent)

rootProject.name = "magicmm-demo"
