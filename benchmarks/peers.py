"""Alternatives to tf.data: PyTorch's DataLoader, Lhotse, Grain, Hugging Face datasets, LitData and DALI on the CPU, over the same records.

Each peer reads the records in a format that it recommends, written once, with its best settings. `make(workload, directory,
workers)` returns an object of which every iteration is one epoch, in a new global order and in batches of similar length: (features float32
`[B, T, d]`, padded, lengths `[B]`, labels `[B]`) as the peer's own tensors or arrays. No package is required: `missing` names the packages
that are not installed.

This module imports neither TensorFlow nor any of the packages: worker processes import it again, and should load only what they use.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.peer_tools import LengthGrouped, fill, once, torch_batch, torch_loader

if TYPE_CHECKING:
    from benchmarks.workloads import Workload

LEAD = 32  # batches, more than the buffers of Grain's threads and processes hold


@dataclass(frozen=True)
class Peer:
    """A loader other than tf.data.

    Attributes:
        packages: names of modules, and the package to install for each.
        make: from (workload, directory, workers) to an object of which every iteration is one epoch.
    """

    packages: dict[str, str]
    make: Callable[[Workload, Path, int], Iterable[tuple[Any, Any, Any]]]

    @property
    def missing(self) -> str | None:
        """The packages that are not installed, separated by spaces; None where all are."""
        return " ".join(package for name, package in self.packages.items() if not _is_there(name)) or None


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package that the module is in
        return False


class Mapped:
    """A map-style dataset: all frames in one memory-mapped .npy, and the start of each record; indexed by the rows of a batch."""

    def __init__(self, directory: Path, d: int) -> None:
        self.path, self.d = directory / "frames.npy", d
        self.starts = (np.load(directory / "starts.npy") * d * 4).tolist()
        self.labels = np.load(directory / "labels.npy")

    @functools.cached_property
    def frames(self) -> memoryview:  # opened by each process on first use: pickling an open map would send the whole file
        return memoryview(np.asarray(np.load(self.path, mmap_mode="r")).reshape(-1).view(np.uint8))

    def __getitem__(self, rows: list[int]) -> tuple[Any, Any, Any]:
        frames, starts = self.frames, self.starts
        return torch_batch([frames[starts[row] : starts[row + 1]] for row in rows], self.d, self.labels[rows])


def write_npy(workload: Workload, directory: Path) -> None:
    """Write frames.npy, starts.npy and labels.npy."""
    shape = (int(workload.lengths.sum()), workload.d)
    frames = np.lib.format.open_memmap(directory / "frames.npy", "w+", np.float32, shape)
    starts = np.concatenate([[0], np.cumsum(workload.lengths)])
    labels = np.zeros(len(workload.lengths), np.int64)
    for number, (x, y) in enumerate(workload.records()):
        frames[starts[number] : starts[number + 1]], labels[number] = x, y
    frames.flush()
    np.save(directory / "starts.npy", starts)
    np.save(directory / "labels.npy", labels)


def pytorch(workload: Workload, directory: Path, workers: int) -> Any:
    """A map-style dataset over memory-mapped arrays, length-grouped batches, one padded tensor per batch."""
    data = once(directory / f"{workload.name}-npy", lambda path: write_npy(workload, path))
    return torch_loader(Mapped(data, workload.d), LengthGrouped(workload.lengths, workload.batch_size), workers)


class Arrow:
    """A Hugging Face dataset that returns Arrow tables, its format without conversion; indexed by the rows of a batch."""

    def __init__(self, path: Path, d: int) -> None:
        import datasets

        self.table, self.d = datasets.Dataset.from_file(str(path)).with_format("arrow"), d

    def __getitem__(self, rows: list[int]) -> tuple[Any, Any, Any]:
        table = self.table[rows]
        sequences = [memoryview(row.values.to_numpy()).cast("B") for row in table["features"]]
        return torch_batch(sequences, self.d, table["label"].to_numpy())


def write_arrow(workload: Workload, directory: Path) -> None:
    """Write data.arrow, with flat lists of float32 and labels, as Dataset.from_generator does in a hundred times the time."""
    import pyarrow

    schema = pyarrow.schema({"features": pyarrow.list_(pyarrow.float32()), "label": pyarrow.int64()})
    records = workload.records()
    with pyarrow.OSFile(str(directory / "data.arrow"), "wb") as file, pyarrow.ipc.new_stream(file, schema) as stream:
        while part := list(itertools.islice(records, 250)):
            values = np.concatenate([x.ravel() for x, _ in part])
            starts = np.cumsum([0, *(x.size for x, _ in part)], dtype=np.int32)
            columns = [pyarrow.ListArray.from_arrays(starts, values), pyarrow.array([y for _, y in part])]
            stream.write_batch(pyarrow.record_batch(columns, schema=schema))


def hugging_face(workload: Workload, directory: Path, workers: int) -> Any:
    """An Arrow dataset, length-grouped batches, a DataLoader."""
    data = once(directory / f"{workload.name}-arrow", lambda path: write_arrow(workload, path))
    return torch_loader(Arrow(data / "data.arrow", workload.d), LengthGrouped(workload.lengths, workload.batch_size), workers)


class LengthPools:
    """Collates a pool of records into batches of similar length; LitData shuffles records, and has no batches of its own for that."""

    def __init__(self, batch_size: int, d: int) -> None:
        self.batch_size, self.d, self.random = batch_size, d, random.Random(0)

    def __call__(self, records: list[dict[str, Any]]) -> list[tuple[Any, Any, Any]]:
        records.sort(key=lambda record: len(record["features"]))
        groups = [records[start : start + self.batch_size] for start in range(0, len(records), self.batch_size)]
        self.random.shuffle(groups)
        return [
            torch_batch(
                [memoryview(record["features"]).cast("B") for record in group], self.d, np.array([record["label"] for record in group])
            )
            for group in groups
        ]


class LitDataEpochs:
    """The batches of the pools that a StreamingDataLoader delivers."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[Any]:
        return itertools.chain.from_iterable(self.loader)


def write_chunks(workload: Workload, directory: Path) -> None:
    """Write chunks of 64 MB, not compressed, as `litdata.optimize` does with processes."""
    from litdata.streaming.writer import BinaryWriter

    writer = BinaryWriter(str(directory), chunk_bytes="64MB")
    for number, (x, y) in enumerate(workload.records()):
        writer[number] = {"features": x.ravel(), "label": int(y)}
    writer.done()
    writer.merge()


def litdata(workload: Workload, directory: Path, workers: int) -> Any:
    """Shuffled local chunks, pools of 32 batches that are sorted by length, a StreamingDataLoader."""
    from litdata import StreamingDataLoader, StreamingDataset

    data = once(directory / f"{workload.name}-litdata", lambda path: write_chunks(workload, path))
    chunks = StreamingDataset(str(data), shuffle=True, drop_last=False)
    pools = LengthPools(workload.batch_size, workload.d)
    processes = {"persistent_workers": True, "multiprocessing_context": "forkserver"} if workers else {}
    return LitDataEpochs(
        StreamingDataLoader(chunks, batch_size=32 * workload.batch_size, num_workers=workers, collate_fn=pools, **processes)
    )


class Collated:
    """A K2-style Lhotse dataset: collates the cuts of a batch."""

    def __getitem__(self, cuts: Any) -> tuple[Any, Any, Any]:
        import torch
        from lhotse.dataset.collation import collate_features

        labels = {cut.id: cut.supervisions[0].custom["label"] for cut in cuts}
        features, lengths = collate_features(cuts)
        return features, lengths, torch.tensor([labels[cut.id] for cut in cuts])


class LhotseEpochs:
    """A DataLoader that passes the number of the epoch to its sampler, so that the order changes."""

    def __init__(self, loader: Any) -> None:
        self.loader, self.epoch = loader, 0

    def __iter__(self) -> Iterator[Any]:
        self.epoch += 1
        self.loader.sampler.set_epoch(self.epoch)
        return iter(self.loader)


def write_cuts(workload: Workload, directory: Path) -> None:
    """Write cuts.jsonl and one .npy per record, Lhotse's lossless storage that does not need HDF5."""
    from lhotse import CutSet, Features, MonoCut, NumpyFilesWriter, SupervisionSegment

    with NumpyFilesWriter(directory / "frames") as frames, CutSet.open_writer(directory / "cuts.jsonl") as cuts:
        for number, (x, y) in enumerate(workload.records()):
            name, seconds = f"{number:06d}", round(len(x) * 0.01, 2)
            features = Features(
                type="fbank", num_frames=len(x), num_features=workload.d, frame_shift=0.01, sampling_rate=16000, start=0, duration=seconds,
                storage_type=frames.name, storage_path="frames", storage_key=frames.write(name, x), channels=0,
            )  # fmt: skip
            label = SupervisionSegment(name, name, 0, seconds, custom={"label": y})
            cuts.write(MonoCut(name, 0, seconds, 0, features=features, supervisions=[label]))


def lhotse(workload: Workload, directory: Path, workers: int) -> Any:
    """Precomputed features, DynamicBucketingSampler, collate_features."""
    from lhotse import CutSet
    from lhotse.dataset import DynamicBucketingSampler

    data = once(directory / f"{workload.name}-lhotse", lambda path: write_cuts(workload, path))
    cuts = CutSet.from_jsonl_lazy(data / "cuts.jsonl").with_features_path_prefix(data)
    sampler = DynamicBucketingSampler(
        cuts, max_cuts=workload.batch_size, num_buckets=30, shuffle=True, buffer_size=len(workload.lengths), world_size=1, rank=0
    )
    return LhotseEpochs(torch_loader(Collated(), sampler, workers))


class Rows:
    """All epochs as one random-access source of the rows of batches; each process computes the order of an epoch when it gets there.

    Each epoch starts with LEAD batches of one record, which are discarded: they are prefetched while other ways are measured.
    """

    def __init__(self, groups: LengthGrouped, epochs: int = 1000) -> None:
        self.groups, self.epochs = groups, epochs
        self.order: tuple[int, list[list[int]]] = -1, []

    def __len__(self) -> int:
        return (LEAD + len(self.groups)) * self.epochs

    def __getitem__(self, position: int) -> list[int]:
        epoch, step = divmod(int(position), LEAD + len(self.groups))
        if step < LEAD:
            return [0]
        order = self.order  # read once: another thread may be an epoch ahead
        if order[0] != epoch:
            order = self.order = epoch, self.groups.batches(epoch)
        return order[1][step - LEAD]


class Read:
    """Reads rows as one padded batch; a record is its label (8 bytes) and its frames."""

    def __init__(self, source: Any, d: int) -> None:
        self.source, self.d = source, d

    def __call__(self, rows: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        records = [memoryview(record) for record in self.source.__getitems__(rows)]
        lengths = np.array([len(record) - 8 for record in records]) // (4 * self.d)
        features = np.empty((len(records), lengths.max(), self.d), np.float32)
        fill(features, [record[8:] for record in records])
        return features, lengths, np.array([np.frombuffer(record, np.int64, 1)[0] for record in records])


class GrainEpochs:
    """Epochs of one long iteration, as in Grain's guides: every new iterator would restart the worker processes."""

    def __init__(self, dataset: Any, steps: int) -> None:
        self.iterator, self.steps = iter(dataset), steps

    def __iter__(self) -> Iterator[Any]:
        return itertools.islice(self.iterator, LEAD, LEAD + self.steps)

    def __del__(self) -> None:  # otherwise its processes and shared memory stay until the interpreter exits, with warnings
        self.iterator.close()


def write_array_record(workload: Workload, directory: Path) -> None:
    """Write one file for random access: groups of one record, not compressed."""
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(directory / "data.array_record"), "group_size:1,uncompressed")
    for x, y in workload.records():
        writer.write(np.int64(y).tobytes() + x.tobytes())
    writer.close()


def grain(workload: Workload, directory: Path, workers: int) -> Any:
    """ArrayRecord, length-grouped batches whose records are read together."""
    import grain as library
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain's processes read flags, which absl.app has not parsed here
    data = once(directory / f"{workload.name}-array_record", lambda path: write_array_record(workload, path))
    source = library.sources.ArrayRecordDataSource(str(data / "data.array_record"))
    groups = LengthGrouped(workload.lengths, workload.batch_size)
    dataset = library.MapDataset.source(Rows(groups)).map(Read(source, workload.d))
    batches = dataset.to_iter_dataset(library.ReadOptions(num_threads=2, prefetch_buffer_size=4))
    if workers:
        batches = batches.mp_prefetch(library.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2))
    return GrainEpochs(batches, len(groups))


class Dali:
    """Mapped arrays, length-grouped batches, padded by a pipeline of DALI on the CPU, with `threads` of its own."""

    def __init__(self, directory: Path, groups: LengthGrouped, threads: int) -> None:
        from nvidia.dali import fn, pipeline_def

        self._frames = np.asarray(np.load(directory / "frames.npy", mmap_mode="r"))  # one per process; a slice of it is not copied
        self._starts, self._labels, self._groups = np.load(directory / "starts.npy"), np.load(directory / "labels.npy"), groups

        @pipeline_def(batch_size=groups.batch_size, num_threads=threads, device_id=None, prefetch_queue_depth=4)
        def padded() -> Any:
            x, lengths, labels = fn.external_source(source=self._batches, num_outputs=3, batch=True, cycle="raise", no_copy=True)
            return fn.pad(x, axes=(0,)), lengths, labels

        self._pipeline = padded()
        self._pipeline.build()

    def _batches(self) -> Iterator[tuple[list[np.ndarray], np.ndarray, np.ndarray]]:
        for rows in self._groups:
            sequences = [self._frames[self._starts[row] : self._starts[row + 1]] for row in rows]
            yield sequences, np.array([len(sequence) for sequence in sequences]), self._labels[rows]

    def __iter__(self) -> Iterator[Any]:
        while True:
            try:
                outputs = self._pipeline.run()
            except StopIteration:
                self._pipeline.reset()
                return
            yield tuple(np.asarray(output.as_tensor()) for output in outputs)


def dali(workload: Workload, directory: Path, workers: int) -> Any:
    """Mapped arrays in a DALI pipeline on the CPU; `workers` are its threads, at least one."""
    data = once(directory / f"{workload.name}-npy", lambda path: write_npy(workload, path))
    return Dali(data, LengthGrouped(workload.lengths, workload.batch_size), max(1, workers))


PEERS = {
    "PyTorch": Peer({"torch": "torch"}, pytorch),
    "Lhotse": Peer({"torch": "torch", "lhotse": "lhotse"}, lhotse),
    "Grain": Peer({"grain": "grain", "array_record": "array-record"}, grain),
    "Hugging Face": Peer({"torch": "torch", "datasets": "datasets"}, hugging_face),
    "LitData": Peer({"torch": "torch", "litdata": "litdata"}, litdata),
    "DALI": Peer({"nvidia.dali": "nvidia-dali-cuda120"}, dali),
}
