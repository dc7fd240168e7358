"""Layers that respect true lengths, so that padding never changes the output.

`mask_aware(model)` turns an ordinary Keras model into one that gives a sequence the same output alone, padded or in a
batch. The layers it uses can also be used directly, each with the arguments of its Keras namesake.
"""

from vlpipe.layers.adaptive import AdaptiveAveragePooling1D, AdaptiveMaxPooling1D
from vlpipe.layers.audio import MFCC, LogMel
from vlpipe.layers.base import MaskAware, Reach
from vlpipe.layers.check import Finding, ModelCheck, check_model
from vlpipe.layers.convert import mask_aware
from vlpipe.layers.entry import CarryMask, Embedding, FillPadding, LengthMask, ToPadded
from vlpipe.layers.frames import FilledFrames, FilledReduction, Reshape, SelectFrame, SliceFrames
from vlpipe.layers.merge import Add, Average, CommonFrames, Concatenate, Maximum, Minimum, Multiply, Subtract
from vlpipe.layers.model import Model
from vlpipe.layers.normalize import BatchNormalization, GroupNormalization, RMSNormalization, Softmax
from vlpipe.layers.planes import (
    AveragePooling2D,
    Conv2D,
    Conv2DTranspose,
    Cropping2D,
    DepthwiseConv2D,
    GlobalAveragePooling2D,
    GlobalMaxPooling2D,
    MaxPooling2D,
    SeparableConv2D,
    STFTSpectrogram,
    UpSampling2D,
    ZeroPadding2D,
)
from vlpipe.layers.reduce import Dot, GlobalAveragePooling1D, GlobalMaxPooling1D, ReduceFrames, Reduction, StatisticsPooling1D
from vlpipe.layers.resize import Conv1DTranspose, Cropping1D, UpSampling1D, ZeroPadding1D
from vlpipe.layers.sequence_loss import CTC, SequenceLoss
from vlpipe.layers.testing import assert_padding_invariant
from vlpipe.layers.timewise import output_lengths, sample_weight
from vlpipe.layers.windows import (
    AveragePooling1D,
    Conv1D,
    ConvOperation,
    ConvTransposeOperation,
    DepthwiseConv1D,
    MaxPooling1D,
    SeparableConv1D,
)
from vlpipe.layers.wrappers import FrameWise, SeveralInputs, SpectralNormalization, TimeDistributed, Weight

__all__ = [
    "CTC",
    "MFCC",
    "AdaptiveAveragePooling1D",
    "AdaptiveMaxPooling1D",
    "Add",
    "Average",
    "AveragePooling1D",
    "AveragePooling2D",
    "BatchNormalization",
    "CarryMask",
    "CommonFrames",
    "Concatenate",
    "Conv1D",
    "Conv1DTranspose",
    "Conv2D",
    "Conv2DTranspose",
    "ConvOperation",
    "ConvTransposeOperation",
    "Cropping1D",
    "Cropping2D",
    "DepthwiseConv1D",
    "DepthwiseConv2D",
    "Dot",
    "Embedding",
    "FillPadding",
    "FilledFrames",
    "FilledReduction",
    "Finding",
    "FrameWise",
    "GlobalAveragePooling1D",
    "GlobalAveragePooling2D",
    "GlobalMaxPooling1D",
    "GlobalMaxPooling2D",
    "GroupNormalization",
    "LengthMask",
    "LogMel",
    "MaskAware",
    "MaxPooling1D",
    "MaxPooling2D",
    "Maximum",
    "Minimum",
    "Model",
    "ModelCheck",
    "Multiply",
    "RMSNormalization",
    "Reach",
    "ReduceFrames",
    "Reduction",
    "Reshape",
    "STFTSpectrogram",
    "SelectFrame",
    "SeparableConv1D",
    "SeparableConv2D",
    "SequenceLoss",
    "SeveralInputs",
    "SliceFrames",
    "Softmax",
    "SpectralNormalization",
    "StatisticsPooling1D",
    "Subtract",
    "TimeDistributed",
    "ToPadded",
    "UpSampling1D",
    "UpSampling2D",
    "Weight",
    "ZeroPadding1D",
    "ZeroPadding2D",
    "assert_padding_invariant",
    "check_model",
    "mask_aware",
    "output_lengths",
    "sample_weight",
]


def __dir__() -> list[str]:
    return list(__all__)
