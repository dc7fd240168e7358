"""Text from files reaches no terminal as it is: errors, logs and the output of commands are escaped and short. Imports no TensorFlow."""

from __future__ import annotations

import ast
import logging
import pickle
from pathlib import Path

import pytest
from click.testing import CliRunner

import vlpipe
from tests.attacks.records import example, feature_list, floats, ints, texts
from tests.attacks.records import write as write_tfrecord
from tests.helpers.metadata_files import edit_metadata
from vlpipe import cli, errors
from vlpipe.errors import MAX_LETTERS, DatasetError, VlpipeError, printable, safe_lines, shortened

CLASSES = [entry for entry in vars(errors).values() if isinstance(entry, type) and issubclass(entry, VlpipeError)]
HOSTILE = "\x1b[2J\x1b]0;pwned\x07\x9b31m\u202e\ud800\r"


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_is_printable_and_short(kind: type[VlpipeError]) -> None:
    error = kind(f"a.tfrecord: {HOSTILE}\nsecond line {'x' * 100_000} the end.")
    first, second = str(error).split("\n")
    assert first == r"a.tfrecord: \x1b[2J\x1b]0;pwned\x07\x9b31m\u202e\ud800\r"
    assert (len(second), second[:12], second[-8:]) == (MAX_LETTERS, "second line ", "the end.")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (kind, str(error))


def test_an_error_of_an_exception_keeps_its_other_arguments() -> None:
    assert DatasetError().args == ()
    assert DatasetError(5, HOSTILE, "name").errno == 5


def test_logs_are_printable(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("vlpipe").warning("%s: %d", HOSTILE, 3)
    assert caplog.messages == [r"\x1b[2J\x1b]0;pwned\x07\x9b31m\u202e\ud800\r: 3"]


def test_every_module_logs_to_the_log_that_escapes() -> None:
    for path in Path(vlpipe.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("getLogger"):
                assert ast.unparse(node.args[0]) == "'vlpipe'", path


def test_the_commands_print_by_one_function() -> None:
    """`echo` of cli/common.py, which escapes; errors are escaped already."""
    for path in (Path(vlpipe.__file__).parent / "cli").glob("*.py"):
        calls = [ast.unparse(node) for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
        found = [call for call in calls if call.startswith(("click.echo", "print(", "click.secho"))]
        assert path.name in ("common.py", "__init__.py") or not found, path


@pytest.mark.parametrize("most", [10, 11, 200])
@pytest.mark.parametrize("text", ["", "short", "x" * 300, "\x1b" * 300, "ab\ncd" * 100])
def test_shortened(text: str, most: int) -> None:
    short = shortened(text, most)
    assert short.isprintable()
    assert len(short) <= most
    assert len(printable(text)) > most or short == printable(text)
    assert shortened(short, most) == short
    assert safe_lines("a\nb\n") == "a\nb\n"


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    record = example({"\x1b[2Jk" + "x" * 5000: floats([1.0, 2.0]), "\x1b]0;pwned\x07": texts(b"\x1b[31mtext"), "label": ints(1)})
    frames = feature_list("\x1b[2Jmel", (floats([float(n), 1.0, 2.0, 3.0, 4.0, 5.0]) for n in range(3)))
    with vlpipe.Writer(tmp_path / "native", num_shards=1) as writer:
        writer.metadata |= {"classes": ["ant", "bee"], "label": "label", "features": {"kind": "ant"}}
        writer.write({"x": [[1.0]], "label": 1, "text": "\x1b[2J"})
    edit_metadata(tmp_path / "native" / "vlpipe.json", lambda document: document["metadata"].update(classes=[HOSTILE, HOSTILE]))
    return {
        "example": write_tfrecord(tmp_path / "a.tfrecord", [record] * 3),
        "sequence": write_tfrecord(tmp_path / "b.tfrecord", [example({"label": ints(1)}) + frames] * 3),
        "native": tmp_path / "native",
    }


@pytest.mark.parametrize("command", ["inspect", "verify", "stats", "head", "plan", "histogram", "index"])
@pytest.mark.parametrize("name", ["example", "sequence", "native"])
def test_no_command_prints_control_characters_from_a_file(files: dict[str, Path], command: str, name: str) -> None:
    result = CliRunner().invoke(cli.main, [command, str(files[name])])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert all(line.isprintable() for line in result.output.split("\n")), result.output
