"""The error classes: one base class, and a built-in class for code that does not know vlpipe."""

from __future__ import annotations

import pytest

from vlpipe import errors

BUILTINS = {
    errors.ArgumentError: ValueError,
    errors.SchemaError: ValueError,
    errors.DatasetError: OSError,
    errors.DatasetExistsError: FileExistsError,
    errors.AudioError: ValueError,
    errors.MissingExtraError: ImportError,
}


def test_the_table_lists_every_error() -> None:
    classes = {value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)}
    assert classes == {errors.VlpipeError, *BUILTINS}


@pytest.mark.parametrize(("error", "builtin"), BUILTINS.items(), ids=lambda value: value.__name__)
def test_each_error_is_caught_as_vlpipe_error_and_as_the_builtin(error: type[Exception], builtin: type[Exception]) -> None:
    for caught_as in (errors.VlpipeError, builtin):
        with pytest.raises(caught_as, match="place: found, expected"):
            raise error("place: found, expected")


def test_the_text_of_an_os_error_is_only_the_message() -> None:
    # An OSError with two arguments would print "[Errno ...]"; DatasetError is always raised with one.
    assert str(errors.DatasetError("a.tfrecord: found 1 byte")) == "a.tfrecord: found 1 byte"


def test_import_extra_returns_the_module() -> None:
    assert errors.import_extra("json.decoder", extra="plot", needed_for="a test").__name__ == "json.decoder"


def test_the_error_of_a_missing_extra_has_the_command_that_installs_it() -> None:
    with pytest.raises(errors.MissingExtraError) as caught:
        errors.import_extra("no_such_package.part", extra="plot", needed_for="Plan.plot")
    text = str(caught.value)
    assert text.startswith('Plan.plot needs the package "no_such_package", which cannot be imported (')
    assert text.endswith("Install it with: pip install 'vlpipe[plot]'")


def test_the_docstring_draws_the_tree() -> None:
    for error, builtin in BUILTINS.items():
        assert f"── {error.__name__:<22}({builtin.__name__})" in (errors.__doc__ or "")


def test_the_place_of_a_record() -> None:
    assert errors.record_place("a.tfrecord", 3, 120) == "a.tfrecord, record 3 at byte 120"
    assert errors.record_place("a.tfrecord", None, 120) == "a.tfrecord at byte 120"
    assert errors.record_place("a.tfrecord", None, None) == "a.tfrecord"
