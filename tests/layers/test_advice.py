"""The way out that each ArgumentError of `vlpipe.layers` names, run; every such error in the code has its row here.

The refusals of `mask_aware` that depend on the role of a layer are in `test_ways_out.py`.
"""

import functools
import inspect
import re

import keras
import numpy as np
import pytest
from keras import ops

import vlpipe
from tests.layers.layers_tools import numpy
from tests.layers.test_replace import AwareSmooth, LeakySmooth, Louder, Plain, Smooth, Unmasked, Wide, WithoutReach
from tests.layers.test_ways_out import LENGTHS, WAYS, AwareTurned, Turned, X, functional, mean
from tests.test_messages import known_messages, occurs, words
from vlpipe import layers
from vlpipe.errors import ArgumentError

plain = keras.layers
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*You are using a softmax over axis:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*was passed an input with a mask attached to it:UserWarning"),
]
BATCH = {"features": X, "lengths": LENGTHS}
MASK = np.arange(9) < LENGTHS[:, None]
ALONE = [row[None, :n] for row, n in zip(X, LENGTHS, strict=True)]
LABELS = np.array([[1, 2], [3, -1]])


def masked(x=X, lengths=LENGTHS):
    return layers.LengthMask()({"features": x, "lengths": lengths})


def each_alone(layer, **other):
    """A layer of vlpipe for a padded batch, and for each row alone: real frames only, or the vectors of the rows."""
    together = numpy(layer(masked()))
    wants = [numpy(layer(x))[0] for x in ALONE]
    gots = [got[: len(want)] if got.ndim > 1 else got for got, want in zip(together, wants, strict=True)]
    return np.concatenate(gots), np.concatenate(wants)


def converted(model, **options):
    """The mask-aware model for a padded batch, and the plain one for each row alone."""
    batch = {"features": X, "mask": MASK} if options.get("given") == "mask" else BATCH
    together = numpy(layers.mask_aware(model, **options)(batch))
    wants = [numpy(model(x))[0] for x in ALONE]
    return np.concatenate([got[: len(w)] if got.ndim > 1 else got for got, w in zip(together, wants, strict=True)]), np.concatenate(wants)


def a_model(name="m"):
    inputs = keras.Input((None, 4))
    return keras.Model(inputs, mean(plain.Conv1D(3, 3, padding="same", bias_initializer="normal")(inputs)), name=name)


class Later(layers.MaskAware, plain.Layer):
    """Leaves out the first two frames."""

    def __init__(self, count, **kwargs):
        super().__init__(**kwargs)
        self.count = count

    def call(self, x, mask=None):
        return x[:, 2:]

    def output_frames(self, frames):
        return self.count(frames)


def called_in_two_ways(name):
    """A nested model that is called on four features and on three frames of them, beside a layer with this name."""

    def body(x):
        inner = keras.Sequential([keras.Input((None, 4)), plain.Conv1D(4, 3, padding="same", name="same"), plain.GlobalMaxPooling1D()])
        return inner(plain.RepeatVector(3)(plain.GlobalAveragePooling1D()(x))) + inner(plain.Dense(4, name=name)(x))

    return functional(body)


def per_frame():
    return functional(lambda x: plain.Conv1D(5, 3, padding="same")(x))


def image_model(body):
    inputs = keras.Input((None, 4))
    return keras.Model(inputs, body(plain.Reshape((-1, 2, 2))(inputs)))


def u_net(frames):
    """A U-Net by hand, on a batch that is padded to a number of frames."""
    x = masked(np.pad(X, [[0, 0], [0, frames - 9], [0, 0]]))
    y = layers.UpSampling1D(2)(layers.MaxPooling1D(2)(x))
    return numpy(layers.Add()([x, y]))[:, :8], X[:, :8] * MASK[:, :8, None] + numpy(y)[:, :8]


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.conv = plain.Conv1D(3, 3, padding="same", bias_initializer="normal")

    def call(self, inputs):
        return mean(self.conv(inputs))


class OwnStep(keras.Model):
    def train_step(self, *args):
        return {"loss": 0.0}


class AwareStep(layers.Model):
    """The steps of `OwnStep`, in a subclass as its refusal says."""

    def test_step(self, *args):
        return {"mine": ops.convert_to_tensor(7.0)}


def own_step():
    model = a_model()
    return OwnStep(model.input, model.output, name="m")


def of_its_graph():
    model = own_step()
    aware = layers.mask_aware(keras.Model(model.input, model.output))
    if keras.backend.backend() == "tensorflow":  # the step of a user has other arguments on each backend
        stepped = AwareStep(aware.input, aware.output)
        stepped.compile(loss="mse")
        assert stepped.evaluate(BATCH, np.zeros((2, 3)), verbose=0, return_dict=True)["mine"] == 7
    return numpy(aware(BATCH)), np.concatenate([numpy(model(x)) for x in ALONE])


def loss_of(loss, labels):
    """The loss of a batch, and the mean of the losses of its rows alone."""
    aware = layers.mask_aware(per_frame())
    alone = [loss(labels[row : row + 1], aware({"features": x, "lengths": np.array([x.shape[1]])})) for row, x in enumerate(ALONE)]
    return float(numpy(loss(labels, aware(BATCH)))), np.mean([float(numpy(value)) for value in alone])


def compiled(loss):
    aware = layers.mask_aware(per_frame())
    aware.compile("sgd", loss)
    return aware.compute_loss(y=ops.convert_to_tensor(LABELS), y_pred=aware(BATCH))


class MeanError(layers.SequenceLoss):
    def per_sequence(self, y_true, y_pred, frames):
        return ops.square(ops.sum(y_pred[:, :, 0], axis=1) / ops.cast(frames, "float32") - y_true)


class Undefined(layers.SequenceLoss):
    """Has no `per_sequence`."""


def taken_by(model, dataset):
    """The answers of a model for a dataset, and the number of its records."""
    return sum(len(numpy(model(x))) for x, *_ in dataset), 2


def records():
    return ({"features": x[0], "label": 1} for x in ALONE)


def dataset(tmp_path, **options):
    vlpipe.write(tmp_path / "two", records())
    return vlpipe.make_dataset(tmp_path / "two", batch_size=2, **options)


def running(x):
    return ops.cumsum(x, axis=1)


def overlapping_windows(tmp_path):
    """Outputs of overlapping windows, stitched to one for each frame."""
    vlpipe.write(tmp_path / "two", records())
    windows = vlpipe.Windows(4, hop=2)
    model = layers.mask_aware(functional(running))
    answers = vlpipe.predict(model, tmp_path / "two", windows=windows, features="features")
    stitched = vlpipe.stitch(answers, answers.ids, answers.starts, lengths=LENGTHS, windows=windows)
    return [len(one) for one in stitched], LENGTHS


@functools.cache
def with_aware_smooth():
    return smooth(AwareSmooth)()


def smooth(kind):
    inputs = keras.Input((None, 4))
    model = keras.Model(inputs, plain.GlobalMaxPooling1D()(Smooth(name="smooth")(plain.Dense(4)(inputs))), name="m")
    return lambda **options: converted(model, layers={Smooth: kind}, **options)


class Lookup(plain.Embedding):
    def call(self, inputs):
        return super().call(ops.maximum(inputs, 0))


class AwareLookup(layers.MaskAware, Lookup):
    def call(self, inputs, mask=None):
        return super().call(inputs)


def tokens(kind):
    inputs = keras.Input((None,), dtype="int32")
    layer = kind(9, 3, name="e")
    model = keras.Model(inputs, plain.GlobalMaxPooling1D()(layer(inputs)))
    rows = np.array([[3, 1, 4, 1], [5, 8, 0, 0]], "int32")
    given = {Lookup: AwareLookup} if kind is Lookup else None
    got = numpy(layers.mask_aware(model, layers=given)({"features": rows, "lengths": np.array([4, 2])}))
    return got, np.concatenate([numpy(model(rows[:1])), numpy(model(rows[1:, :2]))])


def built_by_a_function():
    """A replacement of another build, with the weights of the layer."""
    inputs = keras.Input((None, 4))
    model = keras.Model(inputs, plain.GlobalMaxPooling1D()(Smooth(name="smooth")(inputs)), name="m")

    def make(layer):
        wide = Wide(name=layer.name)
        wide.dense, wide.built = layer.dense, True
        return wide

    return converted(model, layers={Smooth: make})


def unbuilt():
    return keras.Sequential([plain.Conv1D(3, 3, padding="same", bias_initializer="normal"), plain.GlobalMaxPooling1D()], name="s")


def named(name, layer="d"):
    inputs, extra = keras.Input((None, 4), name="x"), keras.Input((4,), name=name)
    return keras.Model([inputs, extra], mean(plain.Dense(4, name=layer)(inputs)) + extra)


def with_other_names():
    aware, by_mask = layers.mask_aware(named("seconds")), layers.mask_aware(named("lengths"), given="mask")
    return aware({**BATCH, "seconds": np.ones((2, 4))}).shape, by_mask({"features": X, "mask": MASK, "lengths": np.ones((2, 4))}).shape


def with_a_reduction(name):
    """`output_lengths` of the model before the layer that its refusal names."""
    model = functional(lambda x: plain.Dense(2)(plain.GlobalAveragePooling1D(name=name)(plain.MaxPooling1D(2)(x))))
    with pytest.raises(ArgumentError, match=f'"{name}" '):
        layers.output_lengths(layers.mask_aware(model), LENGTHS)
    return layers.output_lengths(keras.Model(model.input, model.get_layer(name).input), LENGTHS), LENGTHS // 2


def of_unknown_frames():
    """A model whose frames cannot be counted, which `check_model` finds."""
    model = functional(WAYS["is unknown to vlpipe"][0])
    found = [finding.kind for finding in layers.check_model(model).findings]
    return len(found), found.count("Turned")


def invariant(model, **options):
    options = {"lengths": (1, 5), "padding": (2,), "skip": layers.testing.PARTS, **options}
    layers.assert_padding_invariant(model, **options)
    return 0, 0


def by_hand(body):
    inputs = {"features": keras.Input((None, 4), name="features"), "lengths": keras.Input((), dtype="int32", name="lengths")}
    return layers.Model(inputs, body(layers.LengthMask()(inputs)))


def with_gradients(model):
    return invariant(model, skip=("weights", "compiled", "saved"))


def loudest(x, fill=lambda x: x):
    """The largest logarithm, whose slope at zero has no bounds; by hand, the mask has to be carried on."""
    logs = ops.log(ops.abs(fill(plain.Dense(3, use_bias=False)(x))))
    return layers.GlobalMaxPooling1D()(layers.CarryMask()([logs, x]))


def with_a_leaking_gradient(x):
    everything = ops.mean(x, axis=1)
    return mean(x) + everything - ops.stop_gradient(everything)


def found(model, wrapped=None):
    """What `assert_padding_invariant` advises: `check_model` finds a layer, or `mask_aware` makes the plain model exact."""
    assert layers.check_model(model).findings
    return with_gradients(layers.mask_aware(wrapped or model))


def lost_frame(x):
    return plain.Conv1D(3, 2)(x)


def doubled(x):
    """Sequences of odd lengths have unequal branches."""
    return plain.Add()([x, plain.UpSampling1D(2)(plain.MaxPooling1D(2)(x))])


def earlier_frames(x):
    return plain.TimeDistributed(plain.Dense(3))(x)


# Words of the error: what raises it, and what its advice says to do instead, with what comes of that and what has to.
ADVICE = {
    # layers.audio, layers.base
    "expected waveforms [B, N, 1]. Add the last axis": (
        lambda: layers.LogMel(sample_rate=1000)(keras.Input((None,))),
        lambda: (layers.LogMel(sample_rate=1000, mels=8)(keras.Input((None, 1))).shape, (None, None, 8)),
    ),
    "puts the frames on the last axis": (
        lambda: layers.Conv1D(3, 3, data_format="channels_first"),
        lambda: converted(functional(lambda x: plain.Conv1D(3, 3, data_format="channels_last")(x))),
    ),
    # layers.context
    "so no window has all of the context": (
        lambda: vlpipe.Windows.exact(functional(running), 50),
        overlapping_windows,
    ),
    "the model has outputs of different strides": (
        lambda: vlpipe.Windows.exact(functional(lambda x: [x, plain.MaxPooling1D(2)(x)]), 50),
        lambda: (vlpipe.Windows.exact(functional(lambda x: [x, 2 * x]), 50).frames, 50),
    ),
    "the model has no output with frames": (
        lambda: vlpipe.Windows.exact(keras.Sequential([keras.Input((4,)), plain.Dense(2)]), 50),
        lambda: (vlpipe.Windows.exact(per_frame(), 50).frames, 50),
    ),
    # layers.convert
    'expected "lengths" or "mask"': (lambda: layers.mask_aware(a_model(), given="ids"), lambda: converted(a_model(), given="mask")),
    "no input of the model is a sequence": (
        lambda: layers.mask_aware(keras.Sequential([keras.Input((4,)), plain.Dense(2)])),
        lambda: converted(keras.Sequential([keras.Input((None, 4)), plain.Dense(2)])),
    ),
    "of an input of the mask-aware model": (lambda: layers.mask_aware(named("lengths", "x_lengths")), with_other_names),
    "is mask-aware already": (lambda: layers.mask_aware(layers.mask_aware(a_model())), lambda: converted(a_model())),
    # layers.entry, layers.lengths
    "Call it on a dict with these keys": (
        lambda: layers.LengthMask()({"features": X}),
        lambda: (numpy(layers.LengthMask()({"features": X, "mask": MASK})), X * MASK[..., None]),
    ),
    "Pass one length, or one row of a mask": (
        lambda: layers.LengthMask()({"features": X, "lengths": LENGTHS[:, None]}),
        lambda: (numpy(masked()), X * MASK[..., None]),
    ),
    "mask_zero=True": (
        lambda: layers.Embedding(9, 4, mask_zero=True),
        lambda: tokens(plain.Embedding),
    ),
    "got a dense tensor": (
        lambda: layers.ToPadded()(ops.convert_to_tensor(X)),
        lambda: (numpy(layers.mask_aware(a_model())(BATCH)).shape, (2, 3)),
    ),
    "expected whole numbers from 0 to": (
        lambda: layers.mask_aware(a_model())({"features": X, "lengths": np.array([8, 70])}),
        lambda tmp_path: taken_by(layers.mask_aware(a_model()), dataset(tmp_path, lengths=True, ids=True)),
    ),
    "is true after it was false": (
        lambda: layers.LengthMask()({"features": X, "mask": ~MASK}),
        lambda: (numpy(layers.LengthMask()({"features": X, "mask": np.sort(~MASK)[:, ::-1]}))[1, 3:].any(), False),
    ),
    "expected whole numbers of frames, none negative": (
        lambda: layers.output_lengths(per_frame(), [3, -1]),
        lambda: (layers.output_lengths(per_frame(), LENGTHS), LENGTHS),
    ),
    "expected the lengths [B] of one sequence": (
        lambda: layers.output_lengths(per_frame(), {"features_lengths": LENGTHS}),
        lambda: (layers.output_lengths(per_frame(), {"features_lengths": LENGTHS}["features_lengths"]), LENGTHS),
    ),
    # layers.frames
    "Count both from the same end": (
        lambda: layers.SliceFrames(-3, 2),
        lambda: (numpy(layers.GlobalAveragePooling1D()(layers.SliceFrames(-3, -1)(masked()))), [x[0, -3:-1].mean(axis=0) for x in ALONE]),
    ),
    "where -1 stands for the frames": (lambda: layers.Reshape((4, -1)), lambda: each_alone(layers.Reshape((-1, 8)))),
    " values in a frame that has ": (
        lambda: layers.Reshape((-1, 3))(keras.Input((None, 4))),
        lambda: converted(functional(WAYS["puts 3 values in a frame that has 4"][1])),
    ),
    # layers.merge
    "got branches of ": (lambda: u_net(9), lambda: u_net(10)),
    "cannot be joined along the frames": (
        lambda: layers.Concatenate(axis=1),
        lambda: (numpy(layers.Concatenate()([masked(), masked()]))[..., 4:], X * MASK[..., None]),
    ),
    # layers.model
    "delivers such dicts": (
        lambda: layers.mask_aware(a_model())(X),
        lambda tmp_path: taken_by(layers.mask_aware(a_model()), dataset(tmp_path, lengths=True)),
    ),
    "the batch lacks": (
        lambda: layers.mask_aware(a_model())({"features": X}),
        lambda tmp_path: taken_by(layers.mask_aware(a_model()), dataset(tmp_path, lengths=True)),
    ),
    # layers.normalize, layers.planes
    "Normalize with axis=-1": (lambda: layers.GroupNormalization(2, axis=1), lambda: each_alone(layers.GroupNormalization(2))),
    "synchronized=True": (
        lambda: layers.BatchNormalization(synchronized=True),
        lambda: each_alone(layers.BatchNormalization(synchronized=False)),
    ),
    "expected one axis, 1 (frames) or -1": (lambda: layers.Softmax(axis=(1, 2)), lambda: each_alone(layers.Softmax(axis=1))),
    'expected "nearest" along the frames': (
        lambda: layers.UpSampling2D(2, interpolation="bilinear"),
        lambda: converted(image_model(plain.UpSampling2D((1, 3), interpolation="bilinear"))),
    ),
    "ConvOperation: * expected one of": (
        lambda: layers.ConvOperation("convolve", [1]),
        lambda: (numpy(layers.ConvOperation("conv", [1])([masked(), np.eye(4, dtype="float32")[None]])), X * MASK[..., None]),
    ),
    # layers.reduce
    "ReduceFrames: * expected one of": (
        lambda: layers.ReduceFrames("median"),
        lambda: (numpy(layers.ReduceFrames("max")(masked())), [x[0].max(axis=0) for x in ALONE]),
    ),
    "alone or with axes after it": (
        lambda: layers.ReduceFrames("mean", axis=2),
        lambda: (numpy(layers.ReduceFrames("mean", axis=(1, 2))(masked())), [x[0].mean() for x in ALONE]),
    ),
    "Use keras.layers.Dot for other axes": (
        lambda: layers.Dot(axes=2),
        lambda: converted(functional(WAYS["multiplies along other axes than the frames"][1])),
    ),
    # layers.replace
    "expected classes of layers, each with its mask-aware class": (
        lambda: converted(a_model(), layers={"Smooth": AwareSmooth}),
        with_aware_smooth,
    ),
    "List that class first among its bases": (smooth(Plain), with_aware_smooth),
    "on which it can be tested": (lambda: tokens(Lookup), lambda: tokens(layers.Embedding)),
    "Pass type(layer) of the layer to replace": (
        lambda: converted(a_model(), layers={Smooth: AwareSmooth}),
        lambda: converted(a_model(), layers={type(a_model().layers[1]): lambda layer: layers.Conv1D.from_config(layer.get_config())}),
    ),
    ", lets padding in. ": (smooth(LeakySmooth), with_aware_smooth),
    "Return in reach() as many frames as the layer needs": (smooth(WithoutReach), with_aware_smooth),
    "Build it as the layer does, or return it built": (smooth(Wide), built_by_a_function),
    "expected a mask [batch, frames]": (smooth(Unmasked), with_aware_smooth),
    "Check that it has the weights of the layer": (smooth(Louder), with_aware_smooth),
    # layers.sequence_loss
    "carry no mask, so their lengths are unknown": (
        lambda: MeanError()(np.zeros(2), X),
        lambda: loss_of(MeanError(), np.zeros(2, "float32")),
    ),
    "The model gives one vector of logits for each frame": (
        lambda: loss_of(layers.CTC(), LABELS[:, 0]),
        lambda: loss_of(layers.CTC(), LABELS),
    ),
    "Pass blank= and label_padding= as the labels have them": (
        lambda: loss_of(layers.CTC(), np.array([[0, 2], [3, -1]])),
        lambda: loss_of(layers.CTC(blank=-1, label_padding=9), np.array([[0, 2], [3, 9]])),
    ),
    "expected one for each frame, [B, T]": (
        lambda: compiled(keras.losses.CTC()),
        lambda: loss_of(layers.CTC(), LABELS),
    ),
    "has no method per_sequence(y_true": (
        lambda: loss_of(layers.SequenceLoss(), np.zeros(2, "float32")),
        lambda: loss_of(MeanError(), np.zeros(2, "float32")),
    ),
    # layers.testing, layers.trial, layers.trial_inputs
    "expected at least one length, none negative": (
        lambda: layers.assert_padding_invariant(layers.mask_aware(a_model()), lengths=()),
        lambda: invariant(layers.mask_aware(a_model())),
    ),
    "expected some of": (
        lambda: layers.assert_padding_invariant(layers.mask_aware(a_model()), skip=("speed",)),
        lambda: invariant(layers.mask_aware(a_model())),
    ),
    "so there is no answer to compare": (
        lambda: invariant(functional(plain.Conv1D(3, 4)), lengths=(1, 3)),
        lambda: invariant(functional(plain.Conv1D(3, 4)), lengths=(layers.check_model(functional(plain.Conv1D(3, 4))).shortest,)),
    ),
    "does not say what it takes": (
        lambda: invariant(keras.Sequential([plain.Dense(2)])),
        lambda: invariant(keras.Sequential([plain.Dense(2)]), feature_dim=4),
    ),
    "has an open number of frames": (
        lambda: invariant(keras.Sequential([keras.Input((4,)), plain.Dense(2)])),
        lambda: invariant(keras.Sequential([keras.Input((None, 4)), plain.Dense(2)])),
    ),
    "an output has * frames, but its mask has": (
        lambda: invariant(by_hand(earlier_frames)),
        lambda: found(by_hand(earlier_frames), functional(earlier_frames)),
    ),
    "Call vlpipe.layers.FillPadding()(y) on the output": (
        lambda: invariant(by_hand(lambda x: layers.CarryMask()([1 / x, x]))),
        lambda: invariant(by_hand(lambda x: layers.FillPadding()(layers.CarryMask()([1 / x, x])))),
    ),
    "Pass lengths that each layer has an answer for": (
        lambda: invariant(functional(doubled)),
        lambda: invariant(functional(doubled), lengths=(4, 6)),
    ),
    "of its largest value from that of the sequence alone": (lambda: invariant(a_model()), lambda: found(a_model())),
    "has shape * for the sequence alone": (
        lambda: invariant(by_hand(lost_frame), lengths=(2, 6)),
        lambda: found(by_hand(lost_frame), functional(lost_frame)),
    ),
    "padding meets an operation without a finite gradient": (
        lambda: with_gradients(by_hand(loudest)),
        lambda: with_gradients(by_hand(lambda x: loudest(x, layers.FillPadding(1.0)))),
    ),
    "from that of the sequences alone": (
        lambda: with_gradients(by_hand(with_a_leaking_gradient)),
        lambda: found(by_hand(with_a_leaking_gradient), functional(with_a_leaking_gradient)),
    ),
    # layers.converter
    "has the name of another layer; expected names of their own": (
        lambda: layers.mask_aware(called_in_two_ways("same")),
        lambda: converted(called_in_two_ways("other")),
    ),
    # layers.frame_count
    "output_frames failed for an array of lengths": (
        lambda: layers.mask_aware(functional(lambda x: mean(Later(lambda frames: max(frames - 2, 0))(x)))),
        lambda: converted(functional(lambda x: mean(Later(lambda frames: ops.maximum(frames - 2, 0))(x)))),
    ),
    # layers.timewise
    "takes frames and leaves none": (lambda: layers.output_lengths(a_model(), LENGTHS), lambda: with_a_reduction("pool")),
    "whose frames cannot be counted": (
        lambda: layers.output_lengths(functional(WAYS["is unknown to vlpipe"][0]), LENGTHS),
        of_unknown_frames,
    ),
    # layers.role
    "Pass a mask-aware layer for it": (
        lambda: layers.mask_aware(functional(WAYS["is unknown to vlpipe"][0])),
        lambda: converted(functional(WAYS["is unknown to vlpipe"][0]), layers={Turned: lambda layer: AwareTurned(name=layer.name)}),
    ),
    # layers.walk
    "Start it with keras.Input((None, d))": (
        lambda: layers.mask_aware(unbuilt()),
        lambda: converted(keras.Sequential([keras.Input((None, 4)), *unbuilt().layers])),
    ),
    "the call method of a subclassed model cannot be inspected": (
        lambda: layers.mask_aware(Subclassed()),
        lambda: converted(keras.Model(inputs := keras.Input((None, 4)), Subclassed().call(inputs))),
    ),
    "which cannot be inspected and would be lost": (lambda: layers.mask_aware(own_step()), of_its_graph),
}


# Synchronized statistics, ragged tensors, and graphs for any number of frames.
OF_TENSORFLOW = ("synchronized=True", "got a dense tensor", "an output has * frames, but its mask has")


@pytest.mark.parametrize("text", ADVICE)
def test_the_advice_of_an_error_works(text, tmp_path):
    mistake, advice = ADVICE[text]
    if keras.backend.backend() != "tensorflow" and text in OF_TENSORFLOW:
        pytest.skip("other backends do not get that far")
    with pytest.raises((ArgumentError, AssertionError, NotImplementedError), match=re.escape(text).replace(r"\*", ".*")):
        mistake()
    got, want = advice(tmp_path) if "tmp_path" in inspect.signature(advice).parameters else advice()
    if isinstance(want, tuple):  # a shape
        assert tuple(got) == want
    else:
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_every_error_has_its_advice_here():
    known = [words(text).split() for text in (*ADVICE, *WAYS)]
    found = {place: texts for place, texts in known_messages()[0].items() if place.startswith("vlpipe/layers/")}
    assert len(found) > 80
    assert [texts for texts in found.values() if not any(occurs(some, text) for some in known for text in texts)] == []
