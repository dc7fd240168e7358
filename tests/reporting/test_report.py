"""`vlpipe report`: what the page says, that nothing from files becomes markup, and how a browser shows it."""

from __future__ import annotations

import base64
import io
import itertools
import os
import re
import shutil
import subprocess
import sys
import wave
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import vlpipe
from tests.cli.test_cli import run
from vlpipe.errors import ArgumentError, DatasetExistsError, MissingExtraError
from vlpipe.reporting import write_report
from vlpipe.reporting.markup import Html, tag
from vlpipe.reporting.repeated import repeated_across, repeated_in

HOSTILE = [
    "<script>alert(1)</script>",
    '" onload=alert(2) x="',
    "<img src=//evil.example/x onerror=alert(3)>",
    "a\u202eb\x1b[31m",
    "'><!--",
]
VOID = {"img", "meta", "line", "rect", "path", "circle"}


class Page(HTMLParser):
    """Checks that tags are balanced, and collects what a page has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in VOID, "in SVG it would swallow what follows"
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    def of(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


def records(count: int, speakers: list[str], seed: int) -> list[dict]:
    random = np.random.default_rng(seed)
    return [
        {
            "features": random.normal(size=(int(random.integers(1, 60)), 5)).astype(np.float32),
            "label": n % len(HOSTILE),
            "speaker": speakers[n % len(speakers)],
            "<b>snr": np.float32(n),
        }
        for n in range(count)
    ]


def write(path: Path, examples: list[dict]) -> str:
    with vlpipe.Writer(path, num_shards=2) as writer:
        writer.metadata["classes"] = HOSTILE
        for example in examples:
            writer.write(example)
    return str(path)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("report")
    first = records(40, ["ann", *HOSTILE], 0)
    train = write(folder / "train", first + first[3:5])
    val = write(folder / "val", [*records(10, ["ann", "eve"], 1), first[7]])
    result = run("report", train, val, "-o", folder / "report.html", "--by", "speaker", "--verify", "-n", 2)
    assert (result.exit_code, result.stdout) == (0, "")
    return folder / "report.html"


def test_the_page_is_whole_and_executes_nothing(page: Path) -> None:
    parsed = Page(page.read_text("utf-8"))
    names = {name for name, _ in parsed.tags}
    assert not names & {"script", "link", "iframe", "object", "embed", "base", "form"}
    keys = {key for _, attributes in parsed.tags for key in attributes}
    assert not [key for key in keys if key.startswith("on")]
    addresses = [attributes[key] or "" for _, attributes in parsed.tags for key in ("src", "href", "srcset", "action") if key in attributes]
    assert addresses
    assert all(address.startswith(("#", "data:image/png;", "data:audio/wav;")) for address in addresses)
    assert not re.search(r"url\(|@import", page.read_text("utf-8"))
    (policy,) = [entry["content"] for entry in parsed.of("meta") if entry.get("http-equiv") == "Content-Security-Policy"]
    assert policy
    assert policy.startswith("default-src 'none'")
    text = "".join(parsed.words)
    assert all(name in text for name in (HOSTILE[0], HOSTILE[1], HOSTILE[2], HOSTILE[4], "a\\u202eb\\x1b[31m"))


def test_headings_captions_and_alternative_texts(page: Path) -> None:
    parsed = Page(page.read_text("utf-8"))
    levels = [int(name[1]) for name, _ in parsed.tags if re.fullmatch(r"h\d", name)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert len(parsed.of("table")) == len(parsed.of("caption")) > 10
    assert all(entry["alt"] for entry in parsed.of("img"))
    assert len(parsed.of("img")) == 4
    assert all(entry["role"] == "img" and entry["aria-label"] for entry in parsed.of("svg"))
    ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {(entry["href"] or "")[1:] for entry in parsed.of("a")} <= set(ids)


def test_what_the_page_says(page: Path) -> None:
    text = "|".join(Page(page.read_text("utf-8")).words)
    assert "records|42" in text
    assert "2 records have the checksum and the number of bytes of an earlier record." in text
    assert "2 pairs compared byte by byte: 2 equal, 0 different." in text
    assert re.search(r"1 record of \S+val has the checksum and the number of bytes of a record of \S+train\.", text)
    assert "In both: ann." not in text  # the repeated record has another speaker, which is in both too
    assert "no problem found" in text
    assert "only in " in text
    plan = vlpipe.plan(str(page.parent / "train"), label=False, out_of_range="drop")
    assert f"batches in an epoch|{plan.steps_per_epoch}" in text
    assert f"{plan.valid_ratio:.1%}; the rest is padding" in text


def test_repeated_records_are_those_of_a_plain_comparison(page: Path) -> None:
    train, val = (vlpipe.open(page.parent / name) for name in ("train", "val"))
    contents = [str({key: np.asarray(value).tolist() for key, value in record.items()}) for record in train]
    others = [str({key: np.asarray(value).tolist() for key, value in record.items()}) for record in val]
    expected = {(contents.index(content), row) for row, content in enumerate(contents) if contents.index(content) < row}
    found = repeated_in(train.index)
    assert len(expected) == found.records == 2
    assert {(pair.first, pair.second) for pair in found.pairs} == expected
    assert repeated_across(train.index, val.index).records == sum(content in contents for content in others) == 1
    assert repeated_in(vlpipe.mix({train.select(rows=[0]): 1, train.select(rows=[0, 1]): 1}).index).records == 0


def test_waveforms_can_be_played(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    samples = (np.sin(np.arange(4000) / 5) * 9000).astype(np.int16)
    with vlpipe.Writer(tmp_path / "raw", vlpipe.Schema(wave=vlpipe.Sequence((1,), "int16")), num_shards=1) as writer:
        writer.metadata["sample_rate"] = 8000
        for length in (4000, 0, 1):
            writer.write({"wave": samples[:length, None]})
    write_report([("raw", vlpipe.open(tmp_path / "raw"))], tmp_path / "page.html")
    parsed = Page((tmp_path / "page.html").read_text("utf-8"))
    first, second = parsed.of("audio")
    assert first["aria-label"] == "Waveform of record 0"
    with wave.open(io.BytesIO(base64.b64decode((first["src"] or "").partition(",")[2]))) as file:
        assert file.getframerate() == 8000
        assert np.array_equal(np.frombuffer(file.readframes(4000), "<i2"), samples)
    assert "1 record without a frame." in parsed.words
    assert second["aria-label"] == "Waveform of record 2"


def test_odd_sources(tmp_path: Path) -> None:
    vlpipe.write(tmp_path / "one", [{"x": np.full((2, 3), np.nan, np.float32), "y": np.zeros(0, np.float64)}], num_shards=1)
    with vlpipe.Writer(tmp_path / "none", vlpipe.Schema(x=vlpipe.Sequence((3,), "float32"))):
        pass
    sources = [(name, vlpipe.open(tmp_path / name)) for name in ("one", "none")]
    write_report(sources, tmp_path / "page.html", records=0, verify=True)
    text = "".join(Page((tmp_path / "page.html").read_text("utf-8")).words)
    assert "6 values not finite." in text
    assert "There are no records." in text


def test_damage_is_listed_and_does_not_end_the_page(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    directory = Path(write(tmp_path / "d", records(6, ["ann"], 0)))
    (shard, *_) = sorted(directory.glob("*.tfrecord"))
    content = bytearray(shard.read_bytes())
    content[40] ^= 1
    shard.write_bytes(content)
    run("report", directory, "-o", tmp_path / "page.html", "--verify")
    text = "".join(Page((tmp_path / "page.html").read_text("utf-8")).words)
    assert "1 record damaged" in text
    assert "It cannot be read: " in text


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = write(tmp_path / "d", records(6, ["ann"], 0))
    source, path = [("d", vlpipe.open(directory))], tmp_path / "page.html"
    path.write_text("mine")
    with pytest.raises(DatasetExistsError, match=r"page.html exists already. Pass another file, or --overwrite to replace it."):
        write_report(source, path, records=0)
    assert path.read_text() == "mine"
    write_report(source, path, records=0, overwrite=True)
    assert path.read_text() != "mine"
    with pytest.raises(ArgumentError, match=r"is a directory, or its folder does not exist. Pass a file such as report.html."):
        write_report(source, tmp_path / "no" / "page.html")
    with pytest.raises(ArgumentError, match=r"came as 9 sources, expected 1 to 8, each with sections of its own. Put a glob in quotes"):
        write_report(source * 9, tmp_path / "new.html")
    with pytest.raises(ArgumentError, match=r"records: came as 101, expected an integer from 0 to 100, the records to draw."):
        write_report(source, tmp_path / "new.html", records=101)
    monkeypatch.setattr("vlpipe.reporting.write.replace_file", lambda *_: (_ for _ in ()).throw(OSError(28, os.strerror(28))))
    with pytest.raises(ArgumentError, match=r"output: .*new.html cannot be written \(No space left on device\). Pass another file."):
        write_report(source, tmp_path / "new.html", records=0)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"--records 0 leaves them out\) needs the package .*pip install 'vlpipe\[plot\]'"):
        write_report(source, tmp_path / "new.html")
    assert not (tmp_path / "new.html").exists()


def test_every_text_is_escaped() -> None:
    assert tag("p", "<&\"'", title="<&\"'") == '<p title="&lt;&amp;&quot;&#x27;">&lt;&amp;&quot;&#x27;</p>'
    assert tag("p", Html("<b>"), None) == "<p><b>None</p>"


@pytest.mark.parametrize("width", [360, 1600])
def test_chromium_shows_it_without_an_error(page: Path, width: int, tmp_path: Path) -> None:
    """A window is never narrower than 500 px without a frame: the narrow page is shown in one of 360."""
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("Chromium is not installed (Debian's package chromium)")
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<iframe id=f src="{page.as_uri()}" style="border:0;width:{width}px;height:900px"></iframe>'
        "<script>onload=()=>{const d=f.contentDocument.documentElement;document.title=d.scrollWidth+' '+d.clientWidth+' '+"
        "[...f.contentDocument.images].every(i=>i.naturalWidth>0)+' '+"
        "[...f.contentDocument.querySelectorAll('svg')].every(s=>s.querySelector('.bar,.curve').getBoundingClientRect().width>0)}</script>"
    )
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--enable-logging=stderr", "--dump-dom"]
    command = [browser, *flags, f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width + 40},1000", frame.as_uri()]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "CONSOLE" not in result.stderr
    found = re.search(r"<title>(\d+) (\d+) (\w+) (\w+)</title>", result.stdout)
    assert found
    assert found.group(1) == found.group(2), "the page scrolls sideways"
    assert found.group(3) == "true", "a picture was not decoded"
    assert found.group(4) == "true", "a chart is empty"


def test_sources_at_addresses_have_the_page_of_local_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow as tf

    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("one", "two")):  # 20 records are in both
        records = ({"x": np.full((t, 2), t, np.float32), "label": t % 3, "note": f"n{t}"} for t in range(1 + 20 * number, 41 + 20 * number))
        vlpipe.write(name, records, num_shards=2)
        tf.io.gfile.makedirs(f"ram://report/{name}")
        for file in Path(name).iterdir():
            tf.io.gfile.copy(str(file), f"ram://report/{name}/{file.name}")
    pages = []
    for number, sources in enumerate((("one", "two"), ("ram://report/one", "two"), ("ram://report/one", "ram://report/two"))):
        done = run("report", *sources, "-o", f"{number}.html", "--by", "note", "-n", 1)
        assert done.exit_code == 0, done.stderr
        pages.append(Path(f"{number}.html").read_text("utf-8").replace("ram://report/", ""))
    assert "20 pairs compared byte by byte: 20 equal, 0 different" in pages[0]
    assert [page.replace("graph", "mapped") for page in pages[1:]] == [pages[0]] * 2
    for option in ("--verify", "--compute"):
        done = run("report", "one", "ram://report/two", "-o", "x.html", option)
        refused = "report: ram://report/two/two-00000-of-00002.tfrecord of the source ram://report/two lies at an address, and verify and"
        assert (done.exit_code, refused in done.stderr) == (1, True), done.stderr
    done = run("report", "one", "-o", "gs://bucket/x.html")
    assert "gs://bucket/x.html: is an address, and vlpipe writes to local files only. Write to a local file, then" in done.stderr
    with pytest.raises(ArgumentError, match="is an address, and vlpipe writes to local directories only"):
        vlpipe.Writer("gs://bucket/x")
    done = run("report", "nosuch://bucket/one", "two", "-o", "x.html")
    assert "Copy the dataset directory to this machine, or pass another address." in done.stderr
    assert not Path("x.html").exists()
