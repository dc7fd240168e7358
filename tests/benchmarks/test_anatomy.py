"""The parts to which samples of `perf` are assigned, and a run of the benchmark where `perf` is available."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import anatomy
from tests.benchmarks.benching import quick

ROOT = Path(__file__).parents[2]
SCRIPT = """  100/100
\t    7f01 _PyEval_EvalFrameDefault+0x10 (/usr/lib/libpython3.11.so.1.0)
\t    7f02 [unknown] (/venv/lib/python3.11/site-packages/tensorflow/libtensorflow_cc.so.2)

  100/101
\tffffffff81 _copy_from_iter+0x1f ([kernel.kallsyms])
\tffffffff82 process_vm_rw_core.constprop.0+0x2 ([kernel.kallsyms])

  100/101
\tffffffff83 follow_page_pte+0x1f ([kernel.kallsyms])
\tffffffff82 process_vm_rw_core.constprop.0+0x2 ([kernel.kallsyms])

  100/102
\tffffffff84 clear_page_erms+0x1f ([kernel.kallsyms])
\tffffffff85 asm_exc_page_fault+0x2 ([kernel.kallsyms])
\t    7f03 malloc+0x2 (/lib/libc.so.6)

  100/102
\tffffffff86 try_to_wake_up+0x1f ([kernel.kallsyms])
\tffffffff87 do_futex+0x2 ([kernel.kallsyms])

  100/102
\t    7f04 malloc+0x2 (/lib/libc.so.6)
\t    7f05 tsl::Run(int)+0x2 (/venv/lib/python3.11/site-packages/tensorflow/libtensorflow_framework.so.2)

  999/999
\t    7f01 main+0x10 (/bin/other)
"""


def test_samples_are_assigned_to_parts() -> None:
    assert anatomy.samples(SCRIPT, 100) == {
        "consumer, Python": 1,
        "copying": 1,
        "finding pages": 1,
        "page faults": 1,
        "waking and waiting": 1,
        "hand-over": 1,
    }
    assert set(anatomy.samples(SCRIPT, 100)) <= set(anatomy.PARTS)


def test_the_benchmark_or_its_message_where_perf_is_missing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.anatomy", "--quick", "--workloads", "events", "--json", str(tmp_path / "anatomy.json")]
    can_record = (
        shutil.which("perf")
        and not subprocess.run(["perf", "record", "-a", "-o", str(tmp_path / "x"), "true"], capture_output=True).returncode
    )
    if not can_record:
        if not shutil.which("perf"):
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
            assert done.returncode == 1
            assert "perf is not installed. On Debian" in done.stderr
        pytest.skip("perf is not available")
    document = quick("anatomy", tmp_path, "--workloads", "events")
    for figures in document["results"].values():
        assert figures["batches"] > 0
        assert figures["cpu_us"] == pytest.approx(sum(figures["parts_us"].values()))
