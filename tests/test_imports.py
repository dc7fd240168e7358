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

# A room may import those before it, at the top or inside a function, and none after it. A new room gets its place here.
ROOMS = (
    "errors",
    "processes",
    "layers",
    "schema",
    "tfrecord",
    "places",
    "compression",
    "record",
    "statistics",
    "index",
    "opening",
    "wire",
    "bulk",
    "audio",
    "layouts",
    "foreign",
    "reading",
    "remote",
    "measurement",
    "staging",
    "lengths",
    "reporting",
    "cropping",
    "transformation",
    "normalization",
    "augmentation",
    "options",
    "schedule",
    "changes",
    "state",
    "verification",
    "preview",
    "summary",
    "planning",
    "portion",
    "draft",
    "writer",
    "conversion",
    "ingest",
    "batching",
    "hashing",
    "preparation",
    "builders",
    "calls",
    "listed",
    "parsing",
    "assembly",
    "stream",
    "memory",
    "gather",
    "shards",
    "mapped",
    "graph",
    "dataset",
    "callbacks",
    "cli",
)

PUBLIC = {
    "make_dataset",
    "plan",
    "Plan",
    "Schema",
    "Sequence",
    "Fixed",
    "Text",
    "Crop",
    "Transform",
    "SpecAugment",
    "Writer",
    "write",
    "verify",
    "class_weights",
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
    "build_index",
}


def files_of(room: str) -> list[Path]:
    return [PACKAGE / f"{room}.py"] if (PACKAGE / f"{room}.py").exists() else sorted((PACKAGE / room).rglob("*.py"))


def imports_of(tree: ast.AST) -> Iterator[str]:
    """Full names of all modules and names that are imported, wherever; not those for type checkers alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from imports_of(ast.Module(node.orelse, []))
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)
        yield from imports_of(node)


def rooms_imported_by(room: str) -> set[str]:
    names = {name for path in files_of(room) for name in imports_of(ast.parse(path.read_text("utf-8")))}
    assert not [name for name in names if name.startswith(".")], "imports are absolute here"
    rooms = {name.split(".")[1] for name in names if name.startswith("vlpipe.")}
    return rooms - {"__version__", room}


def test_the_list_names_the_rooms_that_there_are() -> None:
    there = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert there - {"__init__"} == set(ROOMS)
    assert len(set(ROOMS)) == len(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_imports_point_one_way(room: str) -> None:
    above = set(ROOMS[: ROOMS.index(room)])
    assert rooms_imported_by(room) <= above, f"{room} imports what stands after it in the list, or is no room"


def test_the_finder_of_imports_sees_them_all() -> None:
    source = """
import vlpipe.storage.schema as s, os
if TYPE_CHECKING:
    from vlpipe.dataset import hidden
else:
    from vlpipe.engines.stream import shown
def f():
    from vlpipe import planning
    class C:
        if True:
            try:
                import vlpipe.cli
            except ImportError:
                from .lengths import near
"""
    expected = ["vlpipe.storage.schema", "os", "vlpipe.engines.stream.shown", "vlpipe.planning.make_plan", "vlpipe.cli", ".lengths.near"]
    assert list(imports_of(ast.parse(source))) == expected


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
    "refusal": "try: vlpipe.plan(directory)\nexcept vlpipe.DatasetError: pass",
    "rooms": "\n".join(f"import vlpipe.{room}" for room in ROOMS[: ROOMS.index("batching")] if room != "layers"),
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
        AttributeError, match=r"module 'vlpipe' has no attribute 'make_datset'; it has make_dataset, plan, build_index, Plan, "
    ):
        vlpipe.make_datset  # noqa: B018
    assert not hasattr(vlpipe, "__wrapped__")
