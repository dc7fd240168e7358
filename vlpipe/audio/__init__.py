"""From audio files to features `[T, d]`.

    samples, rate = vlpipe.audio.load("a.flac", sample_rate=16000)   # float32 [N], mono
    x = vlpipe.audio.LogMel(sample_rate=16000, mels=80)(samples)     # float32 [T, 80]

A feature is also a `transform` of `make_dataset`, which computes it in the graph: `transforms/audio_features.py`.

soundfile decodes wherever it is installed. Without it, tensorflow-io decodes WAV, Ogg Vorbis, FLAC and MP3 where its native ops load
(TensorFlow 2.16 and 2.17). soundfile alone decodes AIFF, RIFX and Ogg Opus.
"""

from vlpipe.audio.augment import Augment
from vlpipe.audio.decoding import decode, decoder, resample
from vlpipe.audio.features import MFCC, Frames, LogMel, from_settings
from vlpipe.audio.loading import load

__all__ = ["MFCC", "Augment", "Frames", "LogMel", "decode", "decoder", "from_settings", "load", "resample"]


def __dir__() -> list[str]:
    return list(__all__)
