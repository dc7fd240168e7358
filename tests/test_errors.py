"""The family of errors: one base, and the built-in class that a caller who knows nothing of vlpipe would catch."""

from __future__ import annotations

import pytest

from vlpipe import errors

FAMILY = {
    errors.ArgumentError: ValueError,
    errors.SchemaError: ValueError,
    errors.DatasetError: OSError,
    errors.DatasetExistsError: FileExistsError,
    errors.AudioError: ValueError,
    errors.MissingExtraError: ImportError,
}


def test_no_error_is_left_out_of_the_family() -> None:
    raised = {value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)}
    assert raised == {errors.VlpipeError, *FAMILY}


@pytest.mark.parametrize(("error", "builtin"), FAMILY.items(), ids=lambda value: value.__name__)
def test_each_error_is_caught_by_both_its_names(error: type[Exception], builtin: type[Exception]) -> None:
    for caught_as in (errors.VlpipeError, builtin):
        with pytest.raises(caught_as, match="place: found, expected"):
            raise error("place: found, expected")


def test_the_text_of_an_os_error_is_the_message_alone() -> None:
    # An OSError of two arguments would print "[Errno ...]": ours are always made of one.
    assert str(errors.DatasetError("a.tfrecord: found 1 byte")) == "a.tfrecord: found 1 byte"


def test_import_extra_gives_the_module() -> None:
    assert errors.import_extra("json.decoder", extra="plot", needed_for="a test").__name__ == "json.decoder"


def test_a_missing_extra_is_named_with_the_command_that_brings_it() -> None:
    with pytest.raises(errors.MissingExtraError) as caught:
        errors.import_extra("no_such_package.part", extra="plot", needed_for="Plan.plot")
    text = str(caught.value)
    assert text.startswith('Plan.plot needs the package "no_such_package", which cannot be imported (')
    assert text.endswith("Install it with: pip install 'vlpipe[plot]'")
