"""`magicmm-export --runtime executorch` from the command line, and the verbs on what it wrote."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from graph_runs import SIDE, partial_folders, run_here
from magicmm import Bundle
from magicmm_export import cli, isolated
from magicmm_model.checkpoint import Checkpoint

pytest.importorskip("executorch")


@pytest.fixture(scope="module")
def written(tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("written") / "tiny.magicmm"
    arguments = [str(tiny.folder), str(target), "--runtime", "executorch", "--recipe", "float32", "--report"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(isolated, "_run", run_here)
        assert cli.main([*arguments, "--image-size", str(SIDE), "--buckets", "128"]) == 0
    return target


def test_the_bundle_is_verified_and_its_quality_is_measured_on_executorch(written: Path) -> None:
    bundle = Bundle.load(written)
    assert list(bundle.manifest.graphs) == ["executorch"]
    assert bundle.verify(1, "executorch").passes
    quality = bundle.manifest.raw["quality"]
    assert not partial_folders(written.parent)
    assert not written.with_name("tiny.magicmm.parts").exists()
    assert json.loads(written.with_name("tiny.report.json").read_text()) == quality


def test_inspect_judges_by_the_threshold(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", str(written)]) == 0
    assert "executorch for xnnpack: run here." in capsys.readouterr().out
    assert cli.main(["inspect", str(written), "--max-outside", "0.01", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["plans"][0]["outside_share"] < 0.01
    assert cli.main(["inspect", str(written), "--max-outside", "0"]) == 1


def test_check_climbs_what_the_program_shows(
    tiny: Checkpoint, written: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["check", str(tiny.folder), str(written), "--runtime", "executorch", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [stage["name"] for stage in report["stages"]] == ["visual tokens", "vector"]
    assert all(stage["cosine"] > 0.99999 for stage in report["stages"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--runtime", "executorch", "--low-memory"], "--low-memory means nothing"),
        (["--runtime", "executorch", "--max-size", "1GB"], "--max-size means nothing"),
        (["--runtime", "executorch", "--openvino", "--calibrate", "."], "OpenVINO|--openvino"),
        (["--buckets", "32"], "--buckets means nothing"),
        (["--also", "vulkan"], "--also means nothing"),
        (["--runtime", "other"], "no runtime 'other'"),
        (["--runtime", "executorch", "--also", "vulkan"], "which vulkan does not multiply"),
    ],
)
def test_what_means_nothing_is_refused(
    tiny: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert cli.main([str(tiny.folder), str(tmp_path / "x.magicmm"), "--image-size", str(SIDE), *arguments]) == 1
    assert re.search(said, capsys.readouterr().err)
    assert not (tmp_path / "x.magicmm").exists()


@pytest.mark.parametrize("option", [["--buckets", "x"], ["--max-outside", "2"], ["--max-outside", "much"]])
def test_broken_numbers_are_wrong_usage(tmp_path: Path, option: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([str(tmp_path), str(tmp_path / "x.magicmm"), "--runtime", "executorch", *option])
    assert caught.value.code == 2
