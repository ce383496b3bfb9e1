"""Small files from others: a value or one sentence, whatever lies there."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path

import pytest

from runtime.errors import UserError
from runtime.safe_files import (
    MissingFile,
    parse_json,
    parse_yaml,
    printable,
    read_json,
    read_json_lines,
    read_json_object,
    read_limited,
    read_text,
    read_yaml,
    terminal_text,
)

SECONDS = 20.0  # far above what any of these takes, far below what an endless one would


def one_sentence(error: UserError) -> str:
    text = str(error)
    assert "\n" not in text
    assert len(text) < 700
    assert text.isprintable()
    return text


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        (tmp_path / "link").symlink_to(fifo)
        begun = time.monotonic()
        for path in (fifo, tmp_path / "link", tmp_path / "socket", tmp_path, Path("/dev/zero"), Path("/dev/null")):
            for read in (read_json, read_yaml, read_text, lambda path: read_limited(path, 10)):
                with pytest.raises(UserError) as caught:
                    read(path)  # type: ignore[operator]
                assert str(path) in one_sentence(caught.value)
        assert time.monotonic() - begun < SECONDS


@pytest.mark.parametrize("name", ["none", "none/deeper", "n" * 5000, "a\0b"])
def test_missing_and_impossible_names_are_one_sentence(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError) as caught:
        read_json(tmp_path / name)
    one_sentence(caught.value)
    assert isinstance(caught.value, MissingFile) == (name.startswith("none"))


def test_size_is_looked_at_before_reading(tmp_path: Path) -> None:
    path = tmp_path / "sparse.json"
    with path.open("wb") as stream:
        stream.truncate(1 << 40)
    for read in (read_json, read_yaml, read_text):
        with pytest.raises(UserError, match="larger than"):
            read(path)
    path.write_bytes(b"12345")
    assert read_limited(path, 5) == b"12345"
    with pytest.raises(UserError, match="larger than 4 bytes"):
        read_limited(path, 4)
    assert read_limited(Path("/proc/self/status"), 1 << 20)  # states a size of 0


HOSTILE_JSON = {
    "empty": b"",
    "spaces": b" \n\t ",
    "bom only": b"\xef\xbb\xbf",
    "cut": b'{"a": [1, 2',
    "cut text": b'{"a": "b',
    "cut key": b'{"a',
    "comma": b'{"a": 1,}',
    "two values": b"{} {}",
    "rubbish after": b'{"a": 1} x',
    "bad utf-8": b'{"a": "\xff\xfe"}',
    "utf-16": '{"a": 1}'.encode("utf-16"),
    "utf-32": '{"a": 1}'.encode("utf-32"),
    "latin": '{"a": "é"}'.encode("latin-1"),
    "deep lists": b"[" * 100_000,
    "deep closed lists": b"[" * 100_000 + b"]" * 100_000,
    "deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "deep in a text's company": b'["[[[[", ' + b"[" * 5000 + b"]" * 5001,
    "61 deep": b"[" * 61 + b"]" * 61,
    "nan": b'{"x": NaN}',
    "infinity": b"[Infinity]",
    "minus infinity": b"[-Infinity]",
    "1e9999": b'{"x": 1e9999}',
    "-1e400": b"[-1e400]",
    "long float": b"[" + b"9" * 5000 + b".0]",
    "thousands of digits": b"[" + b"7" * 5000 + b"]",
    "21 digits": b"[100000000000000000000]",
    "negative huge": b"[-99999999999999999999]",
    "key twice": b'{"a": 1, "a": 2}',
    "key twice inside": b'{"b": [{"x": 1, "x": 1}]}',
    "key twice escaped": b'{"a": 1, "\\u0061": 2}',
    "lone surrogate": b'{"a": "\\ud800"}',
    "lone low surrogate": b'["\\uDC00"]',
    "surrogate key": b'{"\\udfff": 1}',
    "nul": b'{"a": "x\\u0000y"}',
    "nul key": b'{"\\u0000": 1}',
    "raw nul": b'{"a": "\x00"}',
    "raw newline in text": b'{"a": "x\ny"}',
    "only nul bytes": b"\x00" * 700,
    "bad escape": b'["\\x41"]',
    "short escape": b'["\\u12"]',
    "open quotes": b'"' + b'\\"' * 200_000,
    "many quotes": b'"' * 200_001,
    "single quotes": b"{'a': 1}",
    "comment": b"// hi\n{}",
    "plus": b"[+1]",
    "leading zero": b"[01]",
    "point": b"[.5]",
    "hexadecimal": b"[0x10]",
    "True": b"[True]",
    "html": b"<html>404</html>",
    "yaml": b"a: 1\nb: 2\n",
    "pickle": b"\x80\x04\x95.",
    "zip": b"PK\x03\x04" + b"\0" * 60,
    "wrong brackets": b'{"a": 1]',
    "closed only": b"]]]]}}}",
    "million of commas": b"[" + b"," * 1_000_000,
    "escape code": b'{"\x1b[2J": 1}',
    "del": b"\x7f",
    "colon": b'{"a" 1}',
    "backslash at the end": b'["\\',
    "nothing but minus": b"-",
    "arabic digits": '["a", ٣]'.encode(),
}


@pytest.mark.parametrize("name", HOSTILE_JSON)
def test_hostile_json_is_one_sentence(tmp_path: Path, name: str) -> None:
    path = tmp_path / "card.json"
    path.write_bytes(HOSTILE_JSON[name])
    begun = time.monotonic()
    with pytest.raises(UserError) as caught:
        read_json(path, "fit it again")
    assert time.monotonic() - begun < SECONDS
    text = one_sentence(caught.value)
    assert str(path) in text
    assert text.endswith("; fit it again.")


def test_sixty_and_more_hostile_inputs_of_each_format_are_tried() -> None:
    assert len(HOSTILE_JSON) >= 60
    assert len(HOSTILE_YAML) >= 60


@pytest.mark.parametrize("data", [b"null", b"[]", b"3", b'"text"', b"true"])
def test_an_object_is_asked_for(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "card.json"
    path.write_bytes(data)
    read_json(path)
    with pytest.raises(UserError, match="where a JSON object belongs") as caught:
        read_json_object(path)
    one_sentence(caught.value)


def test_good_json_comes_as_it_is(tmp_path: Path) -> None:
    values = [
        {"a": [1, -2.5, 1e300, True, None, "é 中 \U0001f600", 'quote " and [ and \\'], "b": {"c": {}}},
        [18446744073709551615, -9223372036854775808, 5e-324],
        ["\\u0000 as six characters", "\\\\ud800"],
    ]
    for value in values:
        for text in (json.dumps(value), json.dumps(value, ensure_ascii=False, indent=2)):
            for data in (text.encode(), b"\xef\xbb\xbf" + text.encode()):
                assert parse_json(data, "x") == value
    assert parse_json(b"[" * 60 + b"]" * 60, "x")
    assert parse_json(b'["' + b"[" * 1000 + b'"]', "x") == ["[" * 1000]
    assert parse_json('["\ud83d\ude00"]'.encode("utf-16", "surrogatepass").decode("utf-16"), "x") == ["\U0001f600"]
    assert parse_json(b'["\\ud83d\\ude00"]', "x") == ["\U0001f600"]


def test_a_log_gives_its_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "stats.jsonl"
    path.write_bytes(b'{"step": 1}\n\xff\xfe\n[1]\n{"step": NaN}\n' + b"[" * 9000 + b'\n{"step": 2}\n{"step": ')
    assert read_json_lines(path) == [{"step": 1}, {"step": 2}]


def _laughs(levels: int, parts: int, each: str = "[%s]") -> bytes:
    lines = ["k0: &k0 [z,z,z,z,z,z,z,z,z,z]"]
    for level in range(1, levels):
        lines.append(f"k{level}: &k{level} " + each % ",".join([f"*k{level - 1}"] * parts))
    return "\n".join(lines).encode()


def _merges(levels: int) -> bytes:
    lines = ["k0: &k0 {a: 1, b: 2, c: 3}"]
    for level in range(1, levels):
        lines.append(f"k{level}: &k{level} {{<<: [{','.join([f'*k{level - 1}'] * 10)}], x{level}: 1}}")
    return "\n".join(lines).encode()


HOSTILE_YAML = {
    "laughs": _laughs(10, 10),
    "laughs of two": _laughs(64, 2),
    "laughs in mappings": _laughs(12, 8, "{a: [%s]}"),
    "merges": _merges(9),
    "chain of aliases": _laughs(3000, 1),
    "holds itself": b"&a [*a]",
    "holds itself in a mapping": b"a: &a {b: *a}",
    "holds itself further down": b"a: &a [[[[{c: [*a]}]]]]",
    "merges itself": b"a: &a {<<: *a}",
    "unknown alias": b"a: *b",
    "deep lists": b"[" * 100_000,
    "deep closed lists": b"[" * 3000 + b"]" * 3000,
    "deep mappings": b"{a: " * 3000 + b"1" + b"}" * 3000,
    "deep indent": b"".join(b" " * level + b"a:\n" for level in range(900)) + b" " * 900 + b"1",
    "deep dashes": b"- " * 3000 + b"x",
    "41 deep": b"[" * 41 + b"]" * 41,
    "deep question marks": b"? " * 3000 + b"x",
    "thousands of digits": b"seed: " + b"7" * 5000,
    "hexadecimal digits": b"seed: 0x" + b"f" * 5000,
    "octal digits": b"seed: 0" + b"7" * 5000,
    "binary digits": b"seed: 0b" + b"1" * 5000,
    "22 digits": b"seed: 1000000000000000000000",
    "sixty to the power": b"seed: 1" + b":59" * 4000,
    "sixty of floats": b"lr: 1" + b":59" * 4000 + b".5",
    "infinity": b"lr: .inf",
    "minus infinity": b"lr: -.INF",
    "nan": b"lr: .nan",
    "1e9999": b"lr: 1.0e+9999",
    "key twice": b"lr: 1\nlr: 2\n",
    "key twice quoted": b"lr: 1\n'lr': 2\n",
    "key twice inside": b"a: [{b: 1, b: 1}]",
    "list as key": b"? [a, b]\n: 1\n",
    "mapping as key": b"{a: 1}: 2",
    "python object": b"!!python/object/apply:os.system [echo]",
    "python name": b"a: !!python/name:os.system",
    "python tuple": b"a: !!python/tuple [1, 2]",
    "own tag": b"a: !thing 3",
    "own tag on a mapping": b"!thing {a: 1}",
    "binary": b"a: !!binary aGVsbG8=",
    "binary cut": b"a: !!binary '%%%'",
    "set": b"a: !!set {x, y}",
    "ordered": b"a: !!omap [x: 1]",
    "pairs": b"a: !!pairs [x: 1]",
    "stamp": b"a: !!timestamp 2024-01-01",
    "int of text": b"a: !!int text",
    "int of nothing": b"a: !!int ''",
    "float of text": b"a: !!float text",
    "bool of text": b"a: !!bool text",
    "list of text": b"a: !!seq text",
    "mapping of list": b"a: !!map [1]",
    "str of list": b"a: !!str [1]",
    "bad utf-8": b"a: \xff\xfe",
    "utf-16": "a: 1".encode("utf-16"),
    "latin": "a: é".encode("latin-1"),
    "nul bytes": b"\x00" * 700,
    "nul escaped": b'a: "x\\0y"',
    "nul in unicode": b'a: "x\\u0000y"',
    "lone surrogate": b'a: "\\ud800"',
    "escape code": b"a: \x1b[2J",
    "tab": b"a:\n\t- b",
    "cut list": b"a: [1, 2",
    "cut mapping": b"a: {b: 1",
    "cut text": b'a: "b',
    "cut anchor": b"a: &",
    "bad indent": b"a: 1\n  b: 2\n c: 3",
    "two documents": b"a: 1\n---\nb: 2\n",
    "bad version": b"%YAML 9.9\n---\na: 1",
    "bad directive": b"%TAG ! \n---\na: 1",
    "long text": b"a: " + b"x" * 70_000,
    "too many": b"[" + b"1," * 100_001 + b"]",
    "anchor twice nothing": b"a: *",
    "reserved": b"a: @b",
    "backtick": b"a: `b`",
    "percent": b"a: 1\n%b: 1",
    "zip": b"PK\x03\x04" + b"\0" * 60,
}


@pytest.mark.parametrize("name", HOSTILE_YAML)
def test_hostile_yaml_is_one_sentence(tmp_path: Path, name: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(HOSTILE_YAML[name])
    begun = time.monotonic()
    with pytest.raises(UserError) as caught:
        read_yaml(path, "--config")
    assert time.monotonic() - begun < SECONDS
    assert f"--config {path}" in one_sentence(caught.value)


def test_good_yaml_comes_as_it_is(tmp_path: Path) -> None:
    text = b"""
base: &base {lr: 0.1, betas: [0.9, 0.999]}
one: {<<: *base, lr: 0.2}
again: [*base, *base]
day: 2024-13-45
when: 2024-01-01
text: "caf\xc3\xa9 [\\t]"
flag: yes
none: ~
7: seven
hex: 0x10
"""
    wanted = {
        "base": {"lr": 0.1, "betas": [0.9, 0.999]},
        "one": {"lr": 0.2, "betas": [0.9, 0.999]},
        "again": [{"lr": 0.1, "betas": [0.9, 0.999]}] * 2,
        "day": "2024-13-45",
        "when": "2024-01-01",
        "text": "café [\t]",
        "flag": True,
        "none": None,
        "7": "seven",
        "hex": 16,
    }
    for data in (text, b"\xef\xbb\xbf" + text, text.replace(b"\n", b"\r\n")):
        assert parse_yaml(data, "x") == wanted
    assert parse_yaml(b"", "x") is None
    assert parse_yaml(b"# nothing\n", "x") is None
    assert len(parse_yaml(("classes: [" + ", ".join(f"name {n}" for n in range(10_000)) + "]").encode(), "x")) == 1


def test_text_for_a_terminal_moves_no_cursor() -> None:
    hostile = "a\x1b]0;title\x07\x1b[2J\r\x9b31m\u202ecod\u2066\u200b\u2028\ufeff\x7f\x00\udcff\U000e0041"
    for clean in (printable(hostile), terminal_text(hostile)):
        assert clean.isprintable()
        assert clean.startswith("a\\x1b]0;title\\x07\\x1b[2J\\r\\x9b31m\\u202ecod\\u2066")
    assert printable("one\ntwo\tx") == "one\\ntwo\\tx"
    assert terminal_text("one\ntwo\tx") == "one\ntwo\tx"
    assert terminal_text("Katze 猫 ñ ± 👩‍🔬 קטן") == "Katze 猫 ñ ± 👩‍🔬 קטן"
    assert terminal_text("±", "ascii") == "\\xb1"
    cut = printable("x" * 500 + "end")
    assert len(cut) <= 200
    assert cut.endswith("end")


def test_text_in_utf_8_with_or_without_a_mark(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes(b"\xef\xbb\xbfcat\ncaf\xc3\xa9\n")
    assert read_text(path) == "cat\ncafé\n"
    path.write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match="no text in UTF-8"):
        read_text(path)


def test_a_note_moves_no_cursor(capsys: pytest.CaptureFixture) -> None:
    from runtime.progress import note

    note("a\x1b[2Jb\u202ec")
    assert capsys.readouterr().err == "note: a\\x1b[2Jb\\u202ec\n"
