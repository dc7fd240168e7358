"""From audio files to features `[T, d]`.

    samples, rate = vlpipe.audio.load("a.flac", sample_rate=16000)   # float32 [N], mono
    x = vlpipe.audio.LogMel(sample_rate=16000, mels=80)(samples)     # float32 [T, 80]

WAV, Ogg Vorbis and MP3 are decoded by tensorflow-io where its native ops load (TensorFlow 2.16 and 2.17), else by soundfile; FLAC by
soundfile, or where only tensorflow-io is installed, by that.
"""

from vlpipe.audio.decoding import decode, decoder, load, resample
from vlpipe.audio.features import MFCC, Frames, LogMel, from_settings

__all__ = ["MFCC", "Frames", "LogMel", "decode", "decoder", "from_settings", "load", "resample"]
