"""What the names of recordings tell: the label, and the speaker, by whom they can then be split."""

from __future__ import annotations

import re
from typing import NamedTuple

_LEAST_SPEAKERS = 3  # of two, one would be trained on and one scored


class Naming(NamedTuple):
    """What the names of recordings tell.

    Attributes:
        options: of `vlpipe ingest`, which take the label and the speaker from the names.
        label: where the label is, in words.
        speaker: where the speaker is, in words, with some of them; None where the names tell none.
    """

    options: list[str]
    label: str
    speaker: str | None


def naming_of(keys: list[str]) -> Naming:
    """Find the label and the speaker in the paths of recordings.

    The label is the folder, if there are several folders, else the first part of the file name, up to a "_". The speaker is the first
    further part that can be one: every name has it, it has letters, at least three values, three files a value and two labels a value.

    Args:
        keys: paths relative to the folder of the recordings, with "/".

    Example:
        >>> keys = [f"{digit}_{speaker}_{take}.wav" for digit in "012" for speaker in ("ann", "bob", "eve") for take in "01"]
        >>> naming_of(keys).speaker
        'part 2 of the file names (ann, bob, eve)'
    """
    in_folders = len({key.rpartition("/")[0] for key in keys}) > 1
    parts = [key.rpartition("/")[2].rpartition(".")[0].split("_") for key in keys]
    labels = [key.split("/")[-2:][0] for key in keys] if in_folders else [names[0] for names in parts]
    label = "the folder" if in_folders else "part 1 of the file names"
    for place in range(0 if in_folders else 1, min(map(len, parts))):
        values = [names[place] for names in parts]
        if _can_be_speakers(values, labels):
            label_group = "(?P<label>[^/]+)/" if in_folders else "(?P<label>[^_/]+)_"
            between = "[^_/]*_" * (place if in_folders else place - 1)
            follows = all(len(names) > place + 1 for names in parts)
            speaker_group = "(?P<speaker>[^_/]+)_[^/]*$" if follows else r"(?P<speaker>[^_/]+?)(?:_[^/]*)?\.[^./]*$"
            pattern = label_group + between + speaker_group
            return Naming(["--label-regex", pattern, "--split-by", "speaker"], label, f"part {place + 1} of the file names {_some(values)}")
    return Naming(["--label-from-parent"] if in_folders else ["--label-regex", "([^_/]+)_[^/]*$"], label, None)


def _can_be_speakers(values: list[str], labels: list[str]) -> bool:
    different = set(values)
    return (
        all(values)
        and all(labels)
        and any(re.search(r"[^\W\d_]", value) for value in different)
        and len(different) >= _LEAST_SPEAKERS
        and len(values) >= 3 * len(different)
        and len(set(zip(values, labels, strict=True))) >= 2 * len(different)
    )


def _some(values: list[str]) -> str:
    different = sorted(set(values))
    return f"({', '.join(different[:3])}{', …' if len(different) > 3 else ''})"
