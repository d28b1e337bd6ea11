"""The command line as a user types it: answers on stdout only, exit codes, JSON, odd names."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from PIL import Image

from magicmm.cli import build_parser, main, printable
from tiny_bundles import COLOURS, dual_bundle


class Shell:
    """Runs `magicmm` in this process with one index and one bundle."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.photos = root / "photos"
        self.photos.mkdir()
        for name, colour in COLOURS.items():
            Image.new("RGB", (48, 36), colour).save(self.photos / f"{name}.jpg")
        self.index = root / "index.db"
        self.bundle = dual_bundle(root / "tiny.magicmm")
        self._capsys = capsys

    def __call__(self, verb: str, *arguments: str, bundle: bool = True) -> tuple[int, str, str]:
        options = ["--index", str(self.index), *(["--bundle", str(self.bundle)] if bundle else [])]
        code = main([verb, *arguments, *options])
        captured = self._capsys.readouterr()
        return code, captured.out, captured.err

    def json(self, verb: str, *arguments: str, bundle: bool = True) -> dict:
        code, out, err = self(verb, *arguments, "--json", bundle=bundle)
        assert code == 0, err
        return json.loads(out)


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path, capsys)


@pytest.fixture
def indexed(shell: Shell) -> Shell:
    assert shell("index", str(shell.photos))[0] == 0
    return shell


def names(answer: dict) -> list[str]:
    return [Path(hit["path"]).stem for hit in answer["hits"]]


def test_index_reports_to_stderr_and_answers_one_line(shell: Shell) -> None:
    code, out, err = shell("index", str(shell.photos))
    assert (code, out) == (0, "6 photos indexed, 0 skipped (see: magicmm status)\n")
    assert "6 photos embedded" in err


def test_search_ranks_the_colour_that_the_words_name(indexed: Shell) -> None:
    for colour in ("red", "green", "blue"):
        answer = indexed.json("search", f"a photo of {colour}", "-k", "2")
        assert names(answer)[0] == colour
        assert len(answer["hits"]) == 2
        assert answer["searched"] == 6


def test_search_text_output_is_score_and_path_and_nothing_else(indexed: Shell) -> None:
    code, out, err = indexed("search", "red", "-k", "1")
    score, path = out.split("  ", 1)
    assert code == 0
    assert 0.9 < float(score) <= 1
    assert path == f"{indexed.photos / 'red.jpg'}\n"
    assert err == "1 of 6 photos\n"


def test_search_finds_photos_added_since_unless_told_not_to_sync(indexed: Shell) -> None:
    Image.new("RGB", (40, 40), (250, 5, 5)).save(indexed.photos / "late.png")
    assert "late" not in names(indexed.json("search", "red", "--no-sync"))
    assert "late" in names(indexed.json("search", "red"))


def test_search_by_image_and_by_both(indexed: Shell) -> None:
    green = str(indexed.photos / "green.jpg")
    assert names(indexed.json("search", "--image", green))[0] == "green"
    both = indexed.json("search", "red", "--image", green, "-k", "6")
    assert set(names(both)[:2]) <= {"red", "green", "yellow", "black"}
    assert both["query"] == {"text": "red", "image": green}


def test_similar_leaves_the_photo_itself_out(indexed: Shell) -> None:
    answer = indexed.json("similar", str(indexed.photos / "red.jpg"), "-k", "6")
    assert len(answer["hits"]) == 5
    assert "red" not in names(answer)


def test_similar_takes_a_photo_that_is_not_indexed(indexed: Shell, tmp_path: Path) -> None:
    Image.new("RGB", (30, 30), (0, 0, 240)).save(tmp_path / "elsewhere.png")
    assert names(indexed.json("similar", str(tmp_path / "elsewhere.png")))[0] == "blue"


def test_filters_reach_the_gallery(indexed: Shell) -> None:
    inner = indexed.photos / "inner"
    inner.mkdir()
    (indexed.photos / "red.jpg").rename(inner / "red.jpg")
    os.utime(inner / "red.jpg", (946684800, 946684800))  # 2000-01-01
    assert names(indexed.json("search", "red", "--under", str(inner))) == ["red"]
    assert names(indexed.json("search", "red", "--until", "2000")) == ["red"]
    assert "red" not in names(indexed.json("search", "red", "--since", "2000-02"))
    assert names(indexed.json("search", "red", "--min-score", "0.9")) == ["red"]


def test_jsonl_and_null_output(indexed: Shell) -> None:
    def run(option: str) -> bytes:
        command = [sys.executable, "-m", "magicmm.cli", "search", "red", option, "-k", "3", "--no-sync"]
        options = ["--index", str(indexed.index), "--bundle", str(indexed.bundle)]
        return subprocess.run([*command, *options], capture_output=True, check=True, timeout=60).stdout

    lines = run("--jsonl").splitlines()
    assert [set(json.loads(line)) >= {"path", "score"} for line in lines] == [True] * 3
    paths = run("-0").split(b"\0")
    assert paths[0] == os.fsencode(indexed.photos / "red.jpg")
    assert (len(paths), paths[-1]) == (4, b"")


def test_names_that_would_break_a_line_or_an_encoding(indexed: Shell) -> None:
    odd = [b"new\nline.png", b"quo\"te's.png", b"not-utf8-\xff.png", b"\x1b[31mred.png", "смайл😀.png".encode()]
    for place, name in enumerate(odd):
        Image.new("RGB", (30, 30), (200 + place, 0, 0)).save(indexed.photos / os.fsdecode(name), "PNG")
    code, out, _ = indexed("search", "red", "-k", "20")
    assert (code, out.count("\n")) == (0, 11)
    assert "\x1b" not in out
    found = {os.fsencode(Path(hit["path"]).name) for hit in indexed.json("search", "red")["hits"]}
    assert found >= set(odd)


def test_status_lists_every_skipped_file_with_its_reason(shell: Shell) -> None:
    (shell.photos / "empty.jpg").write_bytes(b"")
    (shell.photos / "words.jpg").write_text("hello")
    (shell.photos / "gone.jpg").symlink_to("nowhere.jpg")
    shell("index", str(shell.photos))
    answer = shell.json("status", bundle=False)
    reasons = {Path(skip["path"]).name: skip["reason"] for skip in answer["skipped"]}
    assert reasons == {"empty.jpg": "empty_file", "words.jpg": "not_an_image", "gone.jpg": "broken_link"}
    assert (answer["indexed"], answer["sources"]) == (6, [str(shell.photos)])
    _, out, _ = shell("status", bundle=False)
    assert "1 x empty_file" in out
    assert "words.jpg" in out


def test_plan_says_what_index_would_do_and_does_nothing(shell: Shell) -> None:
    assert shell.json("index", str(shell.photos), "--plan")["new"] == 6
    assert shell.json("status", bundle=False)["indexed"] == 0


def test_forget_removes_the_photos_from_the_index_only(indexed: Shell) -> None:
    assert indexed.json("forget", str(indexed.photos), bundle=False) == {"indexed": 0, "sources": [], "taught": []}
    assert (indexed.photos / "red.jpg").exists()
    code, _, err = indexed("forget", str(indexed.photos), bundle=False)
    assert code == 1
    assert "not a source" in err


def test_a_taught_name_is_searched_listed_and_forgotten(indexed: Shell) -> None:
    blue, green = (str(indexed.photos / f"{name}.jpg") for name in ("blue", "green"))
    code, out, err = indexed("teach", "our dog", blue)
    assert (code, out, err) == (0, "'our dog' is taught by 1 photos\n", "")
    taught = indexed.json("teach", "Our Dog", green, "--is", "a dog", "--replace")
    assert taught == {"name": "Our Dog", "noun": "a dog", "examples": 1, "stale": 0, "photos": [green]}
    assert indexed.json("taught", bundle=False) == {"taught": [taught]}
    assert indexed("taught", bundle=False)[1] == "Our Dog (a dog): 1 photos\n"
    answer = indexed.json("search", "our dog", "-k", "1")
    assert (answer["taught"], names(answer)) == (["Our Dog"], ["green"])
    code, out, err = indexed("search", "photos of our dog", "-k", "2")
    assert (code, out.count("\n"), "taught: Our Dog\n" in err) == (0, 2, True)
    assert indexed.json("search", "our dog", "--no-taught")["taught"] == []
    answer = indexed.json("forget", "our DOG", bundle=False)
    assert (answer["indexed"], answer["taught"]) == (6, [])
    assert indexed("taught", bundle=False)[1] == ""


def test_photos_to_teach_by_may_be_given_as_uris(indexed: Shell) -> None:
    hit = indexed.json("search", "blue", "-k", "1")["hits"][0]
    assert indexed.json("teach", "Momo", hit["uri"])["photos"] == [hit["path"]]


def test_teaching_says_what_is_wrong(indexed: Shell) -> None:
    for arguments, code in [
        (("the", str(indexed.photos / "red.jpg")), "argument_invalid"),
        (("Momo", str(indexed.photos / "missing.jpg")), "image_invalid"),
        (("Momo", str(indexed.photos / "red.jpg"), "--is", " "), "text_invalid"),
    ]:
        failed, out, err = indexed("teach", *arguments, "--json")
        assert (failed, out, json.loads(err)["error"]["code"]) == (1, "", code)


def test_forget_tells_folders_from_names(indexed: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert indexed("teach", "photos", "photos/red.jpg")[0] == 1  # a word of too many searches
    indexed("teach", "Rex", "photos/red.jpg")
    (tmp_path / "Rex").mkdir()
    Image.new("RGB", (48, 36), "red").save(tmp_path / "Rex" / "red.png")
    indexed("index", "Rex")
    code, _, err = indexed("forget", "Rex", bundle=False)
    assert (code, "--taught" in err) == (1, True)
    assert indexed.json("forget", "./Rex", bundle=False)["taught"] == ["Rex"]
    indexed("index", "Rex")
    assert indexed.json("forget", "--taught", "Rex", bundle=False)["taught"] == []
    assert len(indexed.json("status", bundle=False)["sources"]) == 2
    code, _, err = indexed("forget", "Rox", bundle=False)
    assert (code, "no taught name" in err) == (1, True)


def test_duplicates_groups_copies(indexed: Shell) -> None:
    (indexed.photos / "copy.jpg").write_bytes((indexed.photos / "red.jpg").read_bytes())
    indexed("index")
    groups = indexed.json("duplicates", bundle=False)["groups"]
    assert [sorted(Path(photo["path"]).stem for photo in group["photos"]) for group in groups] == [["copy", "red"]]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["search", "red", "-k", "0"],
        ["search", "red", "-k", "many"],
        ["search", "red", "--since", "yesterday"],
        ["search", "red", "--until", "2024-13"],
        ["search", "red", "--min-score", "2"],
        ["search", "red", "--json", "--nonsense"],
        ["search", "red", "-0", "--jsonl"],
        ["index", "--budget", "-1"],
        ["forget"],
        ["teach"],
        ["teach", "Momo"],
        ["dance"],
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("query", "code"),
    [("", "text_invalid"), ("  \t ", "text_invalid"), ("word " * 10_000, "text_invalid")],
)
def test_bad_queries_are_errors_with_a_code(indexed: Shell, query: str, code: str) -> None:
    status, out, err = indexed("search", query, "--json")
    assert (status, out) == (1, "")
    error = json.loads(err)["error"]
    assert error["code"] == code
    assert error["remedy"]


def test_missing_things_are_named(indexed: Shell, tmp_path: Path) -> None:
    for arguments, word in (
        (["search"], "nothing to search for"),
        (["search", "--image", str(tmp_path / "none.jpg")], "none.jpg"),
        (["index", str(tmp_path / "no-folder")], "no-folder"),
        (["index", str(indexed.photos / "red.jpg")], "red.jpg"),
    ):
        code, out, err = indexed(*arguments)
        assert (code, out) == (1, "")
        assert word in err
    indexed.index = tmp_path / "other.db"
    code, _, err = indexed("search", "red")
    assert code == 1
    assert "magicmm index DIR" in err


def test_searching_goes_on_beside_a_running_sync(indexed: Shell) -> None:
    from magicmm.locking import writer_lock

    with writer_lock(indexed.index):
        code, out, err = indexed("search", "red", "-k", "1")
        assert code == 0
        assert "red.jpg" in out
        assert "not looking for new photos" in err
        code, _, err = indexed("index")
        assert code == 1
        assert "Another process" in err


def test_rebuild_under_another_model(indexed: Shell, tmp_path: Path) -> None:
    indexed.bundle = dual_bundle(tmp_path / "other.magicmm", "other", seed=1)
    code, _, err = indexed("search", "red")
    assert code == 1
    assert "magicmm rebuild" in err
    assert indexed.json("rebuild")["indexed"] == 6
    assert names(indexed.json("search", "red"))[0] == "red"
    assert indexed.json("status", bundle=False)["model"] == "other"


def test_rebuild_sets_a_damaged_index_aside_and_makes_it_anew(indexed: Shell) -> None:
    for suffix in ("-wal", "-shm"):
        indexed.index.with_name(indexed.index.name + suffix).unlink(missing_ok=True)
    data = bytearray(indexed.index.read_bytes())
    data[200:4000] = bytes(3800)
    indexed.index.write_bytes(data)
    code, _, err = indexed("search", "red", "--json")
    assert code == 1
    assert json.loads(err)["error"]["code"] == "index_corrupt"
    assert indexed("doctor")[0] == 1
    answer = indexed.json("rebuild", str(indexed.photos))
    assert answer["indexed"] == 6
    assert Path(answer["set_aside"]).exists()
    assert names(indexed.json("search", "red"))[0] == "red"


def test_rebuild_of_a_damaged_index_keeps_taught_names(indexed: Shell) -> None:
    taught = indexed.json("teach", "our dog", str(indexed.photos / "green.jpg"))
    with closing(sqlite3.connect(indexed.index)) as database:
        database.execute("UPDATE photo SET reason = 'nonsense' WHERE id = 1")
        database.commit()
    answer = indexed.json("rebuild")
    assert (answer["indexed"], answer["set_aside"] is None) == (6, False)
    assert indexed.json("taught", bundle=False) == {"taught": [taught]}
    assert names(indexed.json("search", "our dog", "-k", "1")) == ["green"]


def test_info_and_verify_describe_the_bundle(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(shell.bundle), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["id"], answer["dim"], len(answer["fingerprint"])) == ("tiny-dual", 8, 64)
    assert main(["verify", str(shell.bundle), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["passes"] is True
    (shell.bundle / "tokenizer.json").write_bytes((shell.bundle / "tokenizer.json").read_bytes()[::-1])
    assert main(["verify", str(shell.bundle)]) == 1
    assert "tokenizer.json" in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_traceback(indexed: Shell) -> None:
    command = f"{sys.executable} -m magicmm.cli search red --index {indexed.index} --bundle {indexed.bundle} | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr


def test_help_needs_none_of_the_heavy_imports() -> None:
    program = "import sys; from magicmm.cli import build_parser; build_parser(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    heavy = {"numpy", "onnxruntime", "PIL", "tokenizers", "tqdm", "filelock", "platformdirs", "sqlite3", "simsimd"}
    assert not heavy & set(done.stdout.split())


def test_every_verb_has_help_and_a_function() -> None:
    from magicmm import commands

    actions = [action for action in build_parser()._actions if action.dest == "verb"]
    for verb, parser in actions[0].choices.items():
        assert parser.description
        assert callable(getattr(commands, f"run_{verb}"))


def test_printable_escapes_control_characters_and_bytes() -> None:
    assert printable("plain é 漢字") == "plain é 漢字"
    assert printable("a\nb\x1b[0m") == "a\\nb\\x1b[0m"
    assert "\udcff" not in printable("x\udcff")


def test_search_says_when_probably_nothing_matches(shell: Shell) -> None:
    manifest = shell.bundle / "manifest.json"
    section = {"quantile": 0.5, "intercept": 0.0, "excess": 1.0, "log_photos": 0.0, "least_photos": 2, "threshold": 1.0}
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"confidence": section}))
    shell("index", str(shell.photos))
    code, out, err = shell("search", "red", "-k", "1")
    assert code == 0
    assert err.splitlines()[-2:] == [
        "Probably nothing in this library matches; here is what comes closest.",
        "1 of 6 photos",
    ]
    assert out.count("\n") == 1
    answer = shell.json("search", "red", "-k", "1")
    assert 0.5 < answer["confidence"] < 1
    assert answer["is_doubtful"] is True
    assert "Probably" not in shell("search", "red", "--json")[2]
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"confidence": section | {"threshold": 0.0}}))
    assert "Probably" not in shell("search", "red")[2]


def test_search_without_calibration_has_no_confidence(indexed: Shell) -> None:
    answer = indexed.json("search", "red", "-k", "1")
    assert (answer["confidence"], answer["is_doubtful"]) == (None, False)


def test_search_lifts_photos_by_exif_unless_told_not_to(shell: Shell) -> None:
    exif = Image.Exif()
    exif[0x8769] = {0x9003: "2019:01:05 12:00:00"}
    Image.new("RGB", (48, 36), COLOURS["red"]).save(shell.photos / "winter.jpg", exif=exif)
    shell("index", str(shell.photos))
    code, _, err = shell("search", "red in winter")
    assert code == 0
    assert "Lifted for date or place: in winter.\n" in err
    assert "Lifted" not in shell("search", "red in summer")[2], "no photo was"
    answer = shell.json("search", "red in winter")
    assert names(answer)[0] == "winter"
    assert answer["signals"] == [{"kind": "season", "words": "in winter"}]
    assert answer["signal_weight"] > 0
    assert answer["hits"][0]["signals"] == {"season": 1.0}
    assert all(hit["signals"] == {} for hit in answer["hits"][1:])
    plain = shell.json("search", "red in winter", "--no-signals")
    assert (plain["signals"], plain["signal_weight"]) == ([], 0)
    assert "Lifted" not in shell("search", "red in winter", "--no-signals")[2]
