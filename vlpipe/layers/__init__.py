"""Layers that respect true lengths, so that padding never changes the output.

`mask_aware(model)` turns an ordinary Keras model into one that gives a sequence the same output alone, padded or in a
batch. The layers it uses can also be used directly, each with the arguments of its Keras namesake.
"""

from vlpipe.layers.audio import MFCC, LogMel
from vlpipe.layers.base import MaskAware
from vlpipe.layers.check import Finding, ModelCheck, check_model
from vlpipe.layers.convert import mask_aware
from vlpipe.layers.entry import CarryMask, Embedding, LengthMask, TimeDistributed, ToPadded
from vlpipe.layers.merge import Add, Average, Concatenate, Maximum, Minimum, Multiply, Subtract
from vlpipe.layers.model import Model
from vlpipe.layers.normalize import BatchNormalization, GroupNormalization, RMSNormalization, Softmax
from vlpipe.layers.reduce import Dot, GlobalAveragePooling1D, GlobalMaxPooling1D, ReduceFrames, Reduction, StatisticsPooling1D
from vlpipe.layers.resize import Conv1DTranspose, Cropping1D, UpSampling1D, ZeroPadding1D
from vlpipe.layers.testing import assert_padding_invariant
from vlpipe.layers.timewise import output_lengths, sample_weight
from vlpipe.layers.windows import AveragePooling1D, Conv1D, DepthwiseConv1D, MaxPooling1D, SeparableConv1D

__all__ = [
    "MFCC",
    "Add",
    "Average",
    "AveragePooling1D",
    "BatchNormalization",
    "CarryMask",
    "Concatenate",
    "Conv1D",
    "Conv1DTranspose",
    "Cropping1D",
    "DepthwiseConv1D",
    "Dot",
    "Embedding",
    "Finding",
    "GlobalAveragePooling1D",
    "GlobalMaxPooling1D",
    "GroupNormalization",
    "LengthMask",
    "LogMel",
    "MaskAware",
    "MaxPooling1D",
    "Maximum",
    "Minimum",
    "Model",
    "ModelCheck",
    "Multiply",
    "RMSNormalization",
    "ReduceFrames",
    "Reduction",
    "SeparableConv1D",
    "Softmax",
    "StatisticsPooling1D",
    "Subtract",
    "TimeDistributed",
    "ToPadded",
    "UpSampling1D",
    "ZeroPadding1D",
    "assert_padding_invariant",
    "check_model",
    "mask_aware",
    "output_lengths",
    "sample_weight",
]
