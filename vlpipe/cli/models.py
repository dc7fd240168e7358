"""`vlpipe check-model`: find layers that are not safe for sequences of variable length."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import click

from vlpipe.cli.common import echo, print_json
from vlpipe.errors import ArgumentError, DatasetError


@click.command(short_help="Find layers of a model that let padding in.")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--shortest", type=click.IntRange(1), help="Frames of the shortest sequence that the model will receive.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def check_model(model: Path, shortest: int | None, as_json: bool) -> None:
    """List the layers of a saved Keras MODEL that fail on variable-length input or let padding change the output.

    Exit status 1 if there are any.

    \b
    Examples:
      vlpipe check-model model.keras
      vlpipe check-model model.keras --shortest 20
    """
    if not model.is_file():
        raise DatasetError(f"{model}: not found. Pass a saved Keras model, such as model.keras.")
    import keras

    from vlpipe import layers

    try:
        loaded = keras.saving.load_model(model, compile=False)
    except Exception as error:  # Keras passes on the exceptions of its file readers
        raise ArgumentError(
            f"{model}: Keras cannot load it ({error}). Pass a .keras file, saved with the installed version of Keras."
        ) from error
    check = layers.check_model(loaded, shortest=shortest)
    if as_json:
        print_json(dataclasses.asdict(check))
    else:
        echo(check.report())
    sys.exit(0 if check.ok else 1)
