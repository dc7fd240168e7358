"""The two ways to consume batches in the throughput benchmark: each is checked record by record, and has its columns in the report."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import consuming, pipelines, report, sections, throughput, workloads
from tests.benchmarks.test_throughput import one_wrong_number


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> pipelines.Task:
    workload = workloads.events(40)
    return pipelines.Task.of(*workload.write(tmp_path_factory.mktemp("consuming")), workload.batch_size)


@pytest.fixture
def expected() -> Counter[int]:
    return Counter(throughput.digest(x, np.int64(y)) for x, y in workloads.events(40).records())


class OneWrongNumber:
    """Batches of arrays, of which one has a wrong number."""

    def __init__(self, batches: Any) -> None:
        self._batches = batches

    def __iter__(self) -> Any:
        for number, (x, y) in enumerate(self._batches):
            x["features"][2, 1, 5] += 1e-3 * (number == 0)
            yield x, y


def test_a_wrong_frame_is_seen_however_batches_are_consumed(task: pipelines.Task, expected: Counter[int], quick_graphs: None) -> None:
    mapped, arrays = pipelines.WAYS["vlpipe mapped"](task), pipelines.WAYS[consuming.ARRAYS](task)
    assert consuming.is_for_graphs(mapped)
    assert not consuming.is_for_graphs(arrays)
    good = throughput.check("loop", mapped, expected)
    assert throughput.check("graph", consuming.SeenInGraph(mapped), expected) == pytest.approx(good, abs=0.1)
    assert throughput.check("arrays", arrays, expected) == pytest.approx(good, abs=0.1)
    for wrong in (consuming.SeenInGraph(one_wrong_number(mapped)), OneWrongNumber(arrays)):
        with pytest.raises(SystemExit, match=r"^planted: 1 of 40 records were not delivered as written, 1 unexpected records were$"):
            throughput.check("planted", wrong, expected)
    assert consuming.in_graph(mapped)() == 40


def test_what_an_iterator_and_a_process_cost(task: pipelines.Task) -> None:
    costs = consuming.iterator_costs(pipelines.WAYS[consuming.ARRAYS](task), 2)
    assert {name: len(seconds) for name, seconds in costs.items()} == {"first_batch_seconds": 2, "delete_seconds": 2}
    assert min(min(seconds) for seconds in costs.values()) >= 0
    assert consuming.process_seconds(task, consuming.ARRAYS, 1)[0] > 0


def test_the_report_has_the_columns_of_a_run_that_measured_both(tmp_path: Path) -> None:
    new: dict[str, Any] = copy.deepcopy(report.documents()["throughput"])
    for result in new["results"]["workloads"].values():
        ways = result["ways"]
        ways["vlpipe mapped"] |= {
            "graph": {"frames_per_second": 7.7e7, "ratio": 21.04, "seconds": [1.0] * len(ways["vlpipe mapped"]["seconds"])},
            "process_seconds": [3.0, 4.0, 5.0],
        }
        ways["vlpipe mapped"] |= {"first_batch_seconds": [0.0301], "delete_seconds": [0.002]}
    text = sections.throughput({"throughput": new})
    assert " | ".join(consuming.HEADINGS) in text
    assert text.count("| 77.0 | 21.0 | 4.0 | 30.1 | 2.0 |") == len(new["results"]["workloads"])
    table = sections.speed_table({"throughput": new})
    assert table.count("| 77.0 M (21.0x) |") == len(new["results"]["workloads"])
    assert "`vlpipe.batches`, without tf.data" in table
