"""What imports what, what `import vlpipe` loads, and the list of public names."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import vlpipe

PACKAGE = Path(vlpipe.__file__).parent

# The stair down which the data walk. A room may import those before it and none after it, for type checking too, at the top of a module or
# inside a function. A new room gets its place here.
ROOMS = (
    "errors",
    "arguments",
    "regular_files",
    "processes",
    "text_tables",
    "protobuf",
    "audio",
    "layers",
    "files",
    "storage",
    "layouts",
    "sources",
    "transforms",
    "planning",
    "engines",
    "numpy_batches",
    "dataset",
    "builders",
    "inspection",
    "verification",
    "reporting",
    "conversion",
    "ingest",
    "callbacks",
    "evaluation",
    "testing",
    "demo",
    "cli",
)
# Rooms that may import these alone: they serve models and recordings that have nothing to do with datasets.
APART = {
    "layers": {"errors", "audio"},
    "audio": {"errors", "arguments", "regular_files"},
    "protobuf": {"errors", "arguments"},
    "verification": set(ROOMS[: ROOMS.index("transforms")]),
}
MAX_FLAT_FILES = 10

PUBLIC = {
    "make_dataset",
    "batches",
    "plan",
    "open",
    "mix",
    "Plan",
    "Schema",
    "Sequence",
    "Fixed",
    "Text",
    "Crop",
    "Windows",
    "stitch",
    "Transform",
    "Gain",
    "AddNoise",
    "TimeShift",
    "SpeedPerturb",
    "SpecAugment",
    "Mixup",
    "Skip",
    "Writer",
    "write",
    "verify",
    "predict",
    "evaluate",
    "class_weights",
    "convert",
    "histogram",
    "inspect",
    "stats",
    "VlpipeError",
    "ArgumentError",
    "SchemaError",
    "DatasetError",
    "DatasetExistsError",
    "AudioError",
    "MissingExtraError",
    "audio",
    "builders",
    "callbacks",
    "layers",
    "layouts",
    "testing",
    "build_index",
}


def modules() -> dict[str, Path]:
    """Every module of the package by its full name."""
    paths = {path: path.relative_to(PACKAGE.parent).with_suffix("").parts for path in sorted(PACKAGE.rglob("*.py"))}
    return {".".join(parts[:-1] if parts[-1] == "__init__" else parts): path for path, parts in paths.items()}


def imports_of(tree: ast.AST) -> Iterator[str]:
    """Full names of all modules and names that are imported, wherever, those for type checkers included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)


def imported_by(path: Path) -> set[str]:
    """The modules of the package that a module imports."""
    names = list(imports_of(ast.parse(path.read_text("utf-8"))))
    assert not [name for name in names if name.startswith(".")], "imports are absolute here"
    known = modules()
    return {name if name in known else name.rpartition(".")[0] for name in names if name.startswith("vlpipe.")} - {"vlpipe"}


def test_the_list_names_the_rooms_that_there_are() -> None:
    there = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert there - {"__init__"} == set(ROOMS)
    assert len(set(ROOMS)) == len(ROOMS)
    assert len(list(PACKAGE.glob("*.py"))) <= MAX_FLAT_FILES


@pytest.mark.parametrize("room", ROOMS)
def test_imports_point_one_way(room: str) -> None:
    paths = [path for name, path in modules().items() if f"{name}.".startswith(f"vlpipe.{room}.")]
    rooms = {name.split(".")[1] for path in paths for name in imported_by(path)} - {room}
    assert rooms <= APART.get(room, set(ROOMS[: ROOMS.index(room)])), f"{room} imports a room that comes after it in the list"


def test_no_circle_of_imports() -> None:
    left = {name: imported_by(path) - {name} for name, path in modules().items() if name != "vlpipe"}
    while free := [name for name, needs in left.items() if not needs & left.keys()]:
        for name in free:
            del left[name]
    assert not left, f"these import each other: {sorted(left)}"


def test_the_finder_of_imports_sees_them_all() -> None:
    source = """
import vlpipe.schema as s, os
if TYPE_CHECKING:
    from vlpipe.dataset import hidden
def f():
    from vlpipe import planning
    class C:
        try:
            import vlpipe.cli
        except ImportError:
            from .lengths import near
"""
    expected = {"vlpipe.schema", "os", "vlpipe.dataset.hidden", "vlpipe.planning", "vlpipe.cli", ".lengths.near"}
    assert set(imports_of(ast.parse(source))) == expected


HEAVY = ("tensorflow", "keras", "tensorflow_io", "soundfile", "soxr", "matplotlib", "jax", "torch", "scipy")
LIGHT_WORK = {
    "import": "",
    "all names of the format": "vlpipe.Schema, vlpipe.Sequence, vlpipe.Fixed, vlpipe.Text, vlpipe.VlpipeError, dir(vlpipe)",
    "write": "vlpipe.write(directory, records)",
    "writer": "with vlpipe.Writer(directory) as writer: [writer.write(record) for record in records]",
    "plan": "vlpipe.write(directory, records); assert vlpipe.plan(directory, batch_size=2).report()",
    "verify": "vlpipe.write(directory, records); assert vlpipe.verify(directory).report()",
    "class weights": "vlpipe.write(directory, records); assert vlpipe.class_weights(directory)",
    "foreign": "vlpipe.write(directory, records); vlpipe.plan(directory, layout=vlpipe.layouts.raw_bytes('x', dtype='float32', d=2))",
    "foreign tools": "vlpipe.write(directory, records); layout = vlpipe.layouts.raw_bytes('x', dtype='float32', d=2)\n"
    "from vlpipe.inspection.head import first_records; from vlpipe.inspection.summary import summarize\n"
    "assert vlpipe.verify(directory, layout).ok; list(first_records(directory, 2, layout))\n"
    "summarize(directory, None, layout, compute=True)",
    "open": "vlpipe.write(directory, records); source = vlpipe.open(directory)\n"
    "repr(source.select({'y': [1, 2]})), source[0], source.table()",
    "refusal": "try: vlpipe.plan(directory)\nexcept vlpipe.DatasetError: pass",
    "rooms": "\n".join(f"import vlpipe.{room}" for room in ROOMS[: ROOMS.index("engines")] if room != "layers"),
}


@pytest.mark.parametrize("work", LIGHT_WORK.values(), ids=LIGHT_WORK)
def test_what_needs_no_tensorflow_does_not_load_it(tmp_path: Path, work: str) -> None:
    code = f"""
import sys, numpy as np, vlpipe
directory, records = {str(tmp_path / "d")!r}, [dict(x=np.ones((n, 2), np.float32), y=n) for n in range(1, 5)]
{work}
print(*sorted(set(sys.modules) & set({HEAVY!r})))
"""
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout.strip(), result.stderr) == (0, "", "")


def test_the_public_names() -> None:
    assert set(vlpipe.__all__) == PUBLIC
    assert len(vlpipe.__all__) == len(PUBLIC)
    assert set(dir(vlpipe)) >= PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_each_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(vlpipe, name)
    assert value is getattr(vlpipe, name)
    assert value.__doc__
    if isinstance(value, type(ast)):
        assert value is importlib.import_module(f"vlpipe.{name}")
    else:
        assert value.__name__ == name


def test_an_unknown_name_is_answered_with_those_that_there_are() -> None:
    with pytest.raises(
        AttributeError, match=r"module 'vlpipe' has no attribute 'make_datset'; it has make_dataset, plan, open, mix, build_index, Plan, "
    ):
        vlpipe.make_datset  # noqa: B018
    assert not hasattr(vlpipe, "__wrapped__")
