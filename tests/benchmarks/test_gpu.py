"""The runs on a GPU are runs that `benchmarks.training` knows, and their table has every way."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import gpu, training


@pytest.mark.parametrize("name", gpu.RUNS)
def test_training_accepts_the_arguments_of_each_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["training", "--backend", gpu.backend_of(name), "--device", "gpu", *gpu.RUNS[name]])
    assert training.parse_arguments().backend in ("jax", "torch")


def test_the_backends_are_proven_on_the_cpu_before_the_gpu_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = []

    def train(backend: str, *arguments: str) -> None:
        figures = {
            "seconds": 5.0,
            "frames_per_second": 2e6,
            "wait_share": 0.01,
            "compiles": 8,
            "loss": 1.5,
            "monitor": {"input_wait": 0.02},
        }
        figures |= {"valid_ratio": 0.9, "free_input_ratio": 1.1, "compile_seconds": 2.0}
        path = Path(arguments[arguments.index("--json") + 1])
        path.write_text(json.dumps({"results": {"workloads": {"events": {"device": "H100", "ways": {"a way": figures}}}}}))
        runs.append((backend, arguments[arguments.index("--device") + 1]))

    monkeypatch.setattr(gpu, "train", train)
    gpu.main(["--results", str(tmp_path)])
    assert runs == [("jax", "cpu"), ("torch", "cpu"), ("jax", "gpu"), ("jax", "gpu"), ("torch", "gpu")]
    assert sorted(path.stem for path in tmp_path.iterdir()) == sorted(gpu.RUNS)
    rows = capsys.readouterr().out
    assert rows.count("a way") == len(gpu.RUNS)
    assert "2.0%" in rows
    runs.clear()
    gpu.main(["--quick", "--backends", "jax"])
    assert runs == [("jax", "cpu")]


def test_a_run_that_fails_ends_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(SystemExit, match="gpu: training on jax ended with 1 for: --quick"):
        gpu.train("jax", "--quick")
