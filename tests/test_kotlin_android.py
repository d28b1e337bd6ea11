"""The Android module and the demo app: driven in Robolectric with real photos, and what their files promise."""

from __future__ import annotations

import re
import struct
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

import pytest

import kotlin_parity
from kotlin_build import ROOT, SOURCE, run_android_tests

DEMO = ROOT / "android_demo"
NAME = "{http://schemas.android.com/apk/res/android}name"
SCREENS = {"access", "partial", "index", "paused", "search", "similar", "settings"}


def test_the_android_tests_pass_and_show_every_screen(tmp_path: Path) -> None:
    assert kotlin_parity.runner()
    found = find_spec("skimage")
    if found is None or found.origin is None:
        pytest.skip("The photos are those of scikit-image, which is not installed.")
    report = run_android_tests(Path(found.origin).parent / "data", tmp_path)
    for name in ("AndroidDatabaseTest", "DecoderTest", "MediaStoreSourceTest", "ConditionsTest", "DemoAppTest"):
        (line,) = [line for line in report.splitlines() if line.endswith(name)]
        assert "Skipped: 0" in line
    assert {path.stem.removeprefix("android-") for path in tmp_path.glob("*.png")} == SCREENS
    for path in tmp_path.glob("*.png"):
        assert struct.unpack(">II", path.read_bytes()[16:24]) == (360, 720)


def test_nothing_asks_for_the_network() -> None:
    manifests = [DEMO / "src/main/AndroidManifest.xml", SOURCE / "android/src/main/AndroidManifest.xml"]
    asked = {
        element.attrib[NAME].rpartition(".")[2]
        for path in manifests
        for element in ElementTree.parse(path).iter("uses-permission")
    }
    assert asked == {
        "READ_EXTERNAL_STORAGE",
        "READ_MEDIA_IMAGES",
        "READ_MEDIA_VISUAL_USER_SELECTED",
        "ACCESS_MEDIA_LOCATION",
        "RECEIVE_BOOT_COMPLETED",
    }
    for folder in (DEMO / "src/main", SOURCE / "android/src/main"):
        for path in folder.rglob("*.kt"):
            assert not re.search(r"java\.net|javax\.net|android\.net\.(?!Uri)|println\(", path.read_text("utf-8")), path


def test_vectors_stay_out_of_backups() -> None:
    rules = DEMO / "src/main/res/xml"
    for name, expected in (("data_extraction_rules.xml", 2), ("full_backup_content.xml", 1)):
        excluded = list(ElementTree.parse(rules / name).iter("exclude"))
        assert [element.attrib for element in excluded] == expected * [{"domain": "root", "path": "no_backup/"}]


def test_gradle_takes_its_versions_from_maven() -> None:
    properties = re.findall(r"<([\w.-]+\.version)>", (SOURCE / "pom.xml").read_text("utf-8"))
    for path in DEMO.glob("*.gradle.kts"):
        text = path.read_text("utf-8")
        assert not re.search(r'"\d+\.\d+', text), path
        for name in re.findall(r'version\("([\w.-]+)"\)', text):
            assert name in [*properties, "magicmm"], (path, name)


def test_pictures_of_the_screens_are_in_the_docs() -> None:
    for name in SCREENS:
        assert f"images/android-{name}.png" in (ROOT / "docs/ANDROID.md").read_text("utf-8")
        assert (ROOT / "docs/images" / f"android-{name}.png").is_file()
