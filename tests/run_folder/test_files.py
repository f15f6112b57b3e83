"""Files of rows: whole or not there, and a broken line has a number."""

import errno
import json
import os

import pytest

from minordpo.errors import InputError
from minordpo.run_folder.files import read_jsonl, refuse_existing, write_jsonl


def test_rows_are_read_as_they_were_written(tmp_path):
    rows = [{"text": 'über "αβ"\n\u2028'}, {"n": [1, 2.5, None]}]
    assert write_jsonl(tmp_path / "rows.jsonl", rows) == 2
    assert list(read_jsonl(tmp_path / "rows.jsonl")) == [(1, rows[0]), (2, rows[1])]
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_blank_lines_and_a_byte_order_mark_are_passed_over(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\r\n  \n{"a": 2}')
    assert list(read_jsonl(tmp_path / "rows.jsonl")) == [(1, {"a": 1}), (4, {"a": 2})]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"a": ', r"line 2 of .*rows\.jsonl is not JSON"),
        (b"[1, 2]", r"line 2 of .*rows\.jsonl is a JSON list, but one object a line"),
        (b'{"a": "\xff"}', r"line 2 of .*rows\.jsonl is not UTF-8 \(0xff at byte 8\)"),
        (b"[" * 100_000, r"line 2 of .*rows\.jsonl is not JSON"),
    ],
)
def test_a_broken_line_is_named(tmp_path, line, message):
    (tmp_path / "rows.jsonl").write_bytes(b'{"a": 1}\n' + line + b"\n")
    with pytest.raises(InputError, match=message):
        list(read_jsonl(tmp_path / "rows.jsonl"))


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(InputError, match=r"none\.jsonl cannot be read \(No such file"):
        list(read_jsonl(tmp_path / "none.jsonl"))


def test_a_folder_is_not_read(tmp_path):
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory"):
        list(read_jsonl(tmp_path))


def test_a_missing_folder_is_said_before_anything_is_written(tmp_path):
    with pytest.raises(InputError, match=r"there is no folder .*nowhere"):
        write_jsonl(tmp_path / "nowhere" / "rows.jsonl", [{"a": 1}])
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch):
    def fail(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    out = tmp_path / "rows.jsonl"
    out.write_text("old\n")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(InputError, match=r"rows\.jsonl cannot be written: No space left on device"):
        write_jsonl(out, [{"a": 1}])
    assert out.read_text() == "old\n"
    assert list(tmp_path.iterdir()) == [out]


def test_a_name_the_system_does_not_take_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"cannot be written: File name too long"):
        write_jsonl(tmp_path / ("n" * 300 + ".jsonl"), [{"a": 1}])


def test_rows_that_fail_on_the_way_leave_nothing_behind(tmp_path):
    def rows():
        yield {"a": 1}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_jsonl(tmp_path / "rows.jsonl", rows())
    assert list(tmp_path.iterdir()) == []


def test_half_a_character_is_refused_by_its_row(tmp_path):
    with pytest.raises(InputError, match=r"row 2 holds half a character \(the surrogate \\ud83d\)"):
        write_jsonl(tmp_path / "rows.jsonl", [{"a": "b"}, {"a": json.loads('"\\ud83d"')}])
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_refused_unless_overwriting_is_allowed(tmp_path):
    out = tmp_path / "rows.jsonl"
    refuse_existing(out)
    out.write_text("")
    with pytest.raises(InputError, match=r"rows\.jsonl exists already"):
        refuse_existing(out)
    refuse_existing(out, overwrite=True)


def test_a_folder_is_never_overwritten(tmp_path):
    with pytest.raises(InputError, match="is not a plain file"):
        refuse_existing(tmp_path, overwrite=True)
