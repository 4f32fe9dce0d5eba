import errno
import json

import pytest

from jaxvl.core import files
from jaxvl.core.errors import InputError


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[1]", b"3", b"null", b"\xff\xfe{}", b'{"a": 1}\0', b"[" * 100_000, b'{"a": ' + b"9" * 6000 + b"}",
        '{"a": 1}'.encode("utf-16"),
    ],
)  # fmt: skip
def test_damaged_json_is_one_line_with_the_mend(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match="delete it") as error:
        files.read_json(path, dict, "delete it")
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_text_is_utf8_and_whole_or_not_there(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "a.json"
    files.write_text(path, json.dumps({"é": "日本"}, ensure_ascii=False))
    assert files.read_json(path, dict, "") == {"é": "日本"}
    files.write_text(path, "\udcff")
    assert path.read_bytes() == b"\\udcff"

    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(path), "write_bytes", no_space)
    with pytest.raises(InputError, match=r"a.json: cannot be written \(No space left on device\); free space"):
        files.write_text(path, "new")
    assert path.read_bytes() == b"\\udcff"
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]
    said = []
    assert files.keep(path, lambda p: p.write_bytes(b"x"), False, said.append) is None
    assert said == [
        f"not kept: {path}: cannot be written (No space left on device); free space there, or name another place"
    ]
    with pytest.raises(InputError, match="cannot be written"):
        files.keep(path, lambda p: p.write_bytes(b"x"), True, said.append)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            OSError(errno.EDQUOT, "Disk quota exceeded"),
            "(Disk quota exceeded); free space there, or name",
        ),
        (PermissionError(errno.EACCES, "Permission denied"), "(Permission denied); make it writable, or name"),
        (OSError(errno.EROFS, "Read-only file system"), "(Read-only file system); make it writable, or name"),
        (
            OSError(errno.EIO, "Input/output error"),
            "(Input/output error); look whether its disk still answers",
        ),
        (FileExistsError(errno.EEXIST, "File exists"), "(File exists); name another place"),
        (
            TimeoutError("timed out after 600 s"),
            "(timed out after 600 s); look whether its disk still answers",
        ),
    ],
)
def test_the_mend_is_that_of_the_fault(error, says):
    assert says in str(files.cannot_write("a/b", error))


def test_what_a_terminal_would_obey_is_escaped():
    assert files.printable("a\x1b[31m\nb\r\t\x07é 日本 👍") == r"a\x1b[31m\nb\r\t\x07é 日本 👍"
    assert files.printable("\udcff\u202eabc\u2028") == r"\xff\u202eabc\u2028"
