"""Text from files, the command line and to the console: any bytes end in text or in one line."""
import io
import json
import os
import subprocess
import sys
import unicodedata

import pytest
from conftest import ROOT, task_file

from data.suite import load_suite
from utils.cli import UserError, run, task_name, typed_text
from utils.files import listed, read_json, read_text, write_json


WORD = "naïve Žluťoučký 日本"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_utf_8_is_read_with_and_without_a_byte_order_mark(encoding, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"a": WORD}, ensure_ascii=False), encoding=encoding)
    assert read_json(tmp_path / "a.json") == {"a": WORD}
    assert read_text(tmp_path / "a.json").startswith("{")


@pytest.mark.parametrize("encoding, guess", [
    ("utf-16", "UTF-16"), ("utf-16-be", "UTF-16"), ("utf-16-le", "UTF-16"), ("utf-32", "UTF-16"),
    ("cp1252", "cp1252"), ("latin-1", "cp1252"), ("mac-roman", "cp1252")])
def test_another_encoding_is_named_and_utf_8_is_asked_for(encoding, guess, tmp_path):
    (tmp_path / "a.json").write_bytes('{"a": "naïve"}'.encode(encoding))
    for read in (read_json, read_text):
        with pytest.raises(UserError, match=rf"a.json is not .*UTF-8; .*{guess}.*as UTF-8") as said:
            read(tmp_path / "a.json")
        assert "codec" not in str(said.value)


@pytest.mark.parametrize("text, whole", [
    (r'"x \ud83d y"', "x \ufffd y"), (r'"\uDE00\uD83D"', "\ufffd\ufffd"),
    (r'["a", {"\udfff": [{"b": "\ud800"}]}]', ["a", {"\ufffd": [{"b": "\ufffd"}]}])])
def test_half_a_surrogate_pair_is_replaced_wherever_it_stands(text, whole, tmp_path):
    (tmp_path / "a.json").write_text(f'{{"a": {text}, "n": 1e400}}')
    with pytest.warns(UserWarning, match="a.json has half a surrogate pair"):
        found = read_json(tmp_path / "a.json")
    assert found == {"a": whole, "n": float("inf")}


def test_whole_pairs_and_written_backslashes_stay(tmp_path, recwarn):
    (tmp_path / "a.json").write_text(r'{"a": "\ud83d\ude00", "b": "\\ud83d"}')
    assert read_json(tmp_path / "a.json") == {"a": "😀", "b": r"\ud83d"} and not list(recwarn)


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 200_000, '{"a": ' + "9" * 5000 + "}",
                                  '{"a": 1', "", "nul", "[]"])
def test_no_json_breaks_the_reader(text, tmp_path):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match="a.json") as said:
        read_json(tmp_path / "a.json")
    assert "\n" not in str(said.value)


def test_a_path_that_is_no_utf_8_is_written_as_json(tmp_path):
    write_json(tmp_path / "a.json", {"path": "caf\udce9", "word": WORD})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"path": "caf\udce9",
                                                                            "word": WORD}


def test_side_files_are_passed_over(tmp_path):
    for name in ("b.json", "a.json", "._a.json", ".a.json", "~$a.json", "~a.json", "a.json~"):
        (tmp_path / name).write_bytes(b"\0\xff")
    (tmp_path / "folder.json").mkdir()
    assert [path.name for path in listed(tmp_path, "*.json")] == ["a.json", "b.json"]


@pytest.mark.parametrize("stored, named", [("NFD", "NFC"), ("NFC", "NFD")])
def test_names_match_however_their_accents_are_stored(stored, named, tmp_path):
    (tmp_path / "tasks").mkdir()
    name = "café_ångström"
    for each in ("alpha", unicodedata.normalize(stored, name)):
        task_file(tmp_path / "tasks", each)
    splits = {"unseen": [unicodedata.normalize(named, name)]}
    (tmp_path / "splits.json").write_text(json.dumps(splits))
    assert [task.name for task in load_suite(tmp_path).unseen] == [name]
    assert task_name(unicodedata.normalize(named, name)) == name
    task_file(tmp_path / "tasks", unicodedata.normalize(named, name))
    with pytest.raises(UserError, match="two files named café"):
        load_suite(tmp_path)


@pytest.mark.parametrize("given, text", [
    (os.fsdecode(b"caf\xe9 \x80"), "café €"), (os.fsdecode("日本".encode()), "日本"),
    ("x \ud83d y", "x \ufffd y"), (WORD, WORD)])
def test_a_text_typed_in_any_bytes(given, text):
    assert typed_text(given) == text


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_what_the_output_cannot_show_is_replaced(encoding, monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
    monkeypatch.setattr("sys.stdout", out)
    run(lambda: print(f"wrote 日本/{os.fsdecode(b'caf' + bytes([0xe9]))}"))
    out.flush()
    said = out.buffer.getvalue().decode(encoding)
    assert said.startswith("wrote ") and said.endswith("/caf\\udce9\n")
    assert ("日本" in said) == (encoding == "utf-8")


def test_an_error_about_a_folder_with_foreign_letters_is_one_line():
    done = subprocess.run([sys.executable, ROOT / "train.py", "--mode", "mtlora", "--tasks",
                           "日本".encode() + b"\xe9"], capture_output=True,
                          env=os.environ | {"PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 2 and b"Traceback" not in done.stderr
    assert done.stderr.startswith(b"error: ") and done.stderr.count(b"\n") == 1, done.stderr
