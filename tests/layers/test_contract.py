"""`assert_padding_invariant` over every kind of layer, and over seven kinds of silent faults that are planted on purpose."""

import keras
import numpy as np
import pytest
from keras import ops

from tests.layers.zoo import UNEVEN
from vlpipe import layers
from vlpipe.errors import ArgumentError
from vlpipe.layers import check, fills, roles, walk
from vlpipe.layers.testing import assert_padding_invariant

plain = keras.layers
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*You are using a softmax over axis:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*includes a `lambda`:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*was passed an input with a mask attached to it:UserWarning"),  # GroupQueryAttention to its parts
]
QUICK = {"lengths": (2, 6), "padding": (1,), "skip": ("compiled", "saved")}
SHORT = {"lengths": (2, 9), "padding": (1, 4)}  # two frames are enough for each layer below
pool = plain.GlobalMaxPooling1D


def window(layer, **options):
    return [layer(padding="same", **options), layer(padding="valid", **options)]


def several(cls):
    return lambda x: cls()(
        [x, plain.Dense(4)(x), plain.Dense(4, activation="tanh")(x)] if cls is not plain.Subtract else [x, plain.Dense(4)(x)]
    )


def to_itself(cls, *arguments, **options):
    return lambda x: cls(*arguments, **options)(
        *([[plain.Dense(4)(x), x]] if cls in (plain.Attention, plain.AdditiveAttention) else [x, x])
    )


# Layers by kind: each becomes one output of a model, on a normalized sequence of 4 features.
KINDS = {
    "windows": [
        *window(plain.Conv1D, filters=3, kernel_size=2, dilation_rate=1), *window(plain.Conv1D, filters=3, kernel_size=2, strides=2),
        plain.Conv1D(3, 3, padding="causal"), *window(plain.DepthwiseConv1D, kernel_size=2), *window(plain.MaxPooling1D, pool_size=2),
        plain.SeparableConv1D(3, 2, strides=2, padding="same"), plain.AveragePooling1D(2), plain.AveragePooling1D(2, padding=UNEVEN),
        plain.Conv1DTranspose(3, 3, strides=2, padding="same"), plain.ZeroPadding1D((1, 2)), plain.Cropping1D((1, 0)),
        plain.UpSampling1D(2),
    ],
    "frames": [
        plain.Dense(3, activation="softmax"), plain.Dense(3, activation=ops.tanh), plain.Activation("glu"), plain.ReLU(), plain.ELU(),
        plain.LeakyReLU(), plain.PReLU(shared_axes=[1]), plain.Dropout(0.5), plain.SpatialDropout1D(0.5), plain.GaussianDropout(0.5),
        plain.GaussianNoise(0.5), plain.AlphaDropout(0.5), plain.Rescaling(2.0, 1.0), plain.Identity(),
        plain.Normalization(mean=0.5, variance=4.0), plain.TimeDistributed(plain.Dense(3)),
    ],
    "statistics": [
        plain.BatchNormalization(), plain.LayerNormalization(), plain.GroupNormalization(2), plain.RMSNormalization(),
        plain.UnitNormalization(), plain.Softmax(), plain.Softmax(axis=1), plain.GlobalAveragePooling1D(), plain.GlobalMaxPooling1D(),
        layers.StatisticsPooling1D(),
    ],
    "recurrence": [
        plain.LSTM(2, return_sequences=True), plain.GRU(2), plain.SimpleRNN(2, go_backwards=True),
        plain.Bidirectional(plain.GRU(2, return_sequences=True)),
    ],
    "attention": [
        to_itself(plain.MultiHeadAttention, 2, 2), to_itself(plain.GroupQueryAttention, 2, 2, 1),
        lambda x: plain.MultiHeadAttention(1, 2)(x, x, use_causal_mask=True), lambda x: plain.Attention()([plain.Dense(4)(x), x]),
        lambda x: plain.AdditiveAttention()([plain.Dense(4)(x), x]),
        lambda x: plain.Add()([x, plain.Conv1D(4, 3, padding="same")(x)]),  # uses what the attentions have used
    ],
    "merges": [
        *map(several, (plain.Add, plain.Subtract, plain.Multiply, plain.Maximum, plain.Minimum, plain.Average, plain.Concatenate)),
        lambda x: plain.Dot(axes=1)([x, plain.Dense(2)(x)]), lambda x: plain.Multiply()([x, plain.Reshape((1, 4))(pool()(x))]),
    ],
    "operations": [
        lambda x: ops.log(ops.square(x)), lambda x: ops.sqrt(ops.abs(x)), lambda x: x / ops.sum(ops.abs(x), axis=-1, keepdims=True),
        lambda x: 1 / x, lambda x: ops.power(ops.abs(x), 0.5), lambda x: x / ops.mean(ops.abs(x), axis=1, keepdims=True),
        lambda x: ops.rsqrt(ops.mean(ops.square(x), axis=-1, keepdims=True)), plain.Activation(lambda x: ops.log(ops.abs(x))),
        plain.Conv1D(3, 2, padding="same", use_bias=False, activation=lambda x: ops.log(ops.abs(x))),
    ],
}  # fmt: skip


@pytest.mark.parametrize("group", KINDS)
def test_every_kind_of_layer(group):
    inputs = keras.Input((None, 4))
    x = plain.Dense(4, use_bias=False)(inputs)
    model = keras.Model(inputs, [layer(x) for layer in KINDS[group]])
    aware = layers.mask_aware(model)
    skip = {"operations": ["saved"], "recurrence": ["compiled", "gradients"]}.get(group, [])  # Keras loads no lambda; loops take seconds
    assert_padding_invariant(aware, plain=model, skip=skip, **SHORT)
    assert layers.check_model(aware).ok


def test_more_than_forty_kinds_are_tested():
    assert sum(map(len, KINDS.values())) > 50


def functional(body):
    inputs = keras.Input((None, 4))
    return keras.Model(inputs, body(inputs))


def over_time(t):
    return ops.softmax(t, axis=1)


class Twice(keras.Model):
    def call(self, inputs, training=None, mask=None):
        return 2 * super().call(inputs)


def twice():
    inputs = keras.Input((None, 4))
    return Twice(inputs, pool()(plain.Conv1D(3, 3)(inputs)))


def beside_attention(x):
    x = plain.Dense(4)(x)
    return plain.Add()([plain.MultiHeadAttention(2, 4)(x, x), plain.Conv1D(4, 3, padding="same")(x)])


# A silent fault: what undoes the cure of it, a model that has it, and what the contract says. Each was found in models of others,
# in which check_model had found nothing.
FAULTS = {
    "an activation over time": (
        (roles, "mixing_activation", lambda layer, x: False),
        lambda: functional(lambda x: plain.Dense(1, activation=over_time)(x)),
        r"padded by 1 frames of zeros: the output differs by",
    ),
    "attention that deletes a mask": (
        (fills, "ATTENTION", set()),
        lambda: functional(lambda x: plain.GlobalAveragePooling1D()(beside_attention(x))),
        "padded by 1 frames of noise: the output differs by|padded by 1 frames of zeros: the output differs by",
    ),
    "a mask taken for features": (
        (roles, "role_of_feature_softmax", lambda layer: roles.KEEP),
        lambda: functional(lambda x: plain.Softmax()(plain.Dense(7)(x))),
        "the model fails with .*mask|the output differs by",
    ),
    "a quotient of zeros": (
        (fills, "SAFE_VALUES", {}),
        lambda: functional(lambda x: x / ops.sum(ops.abs(x), axis=-1, keepdims=True)),
        "the padding of the output has NaN or infinite values, which stay in the loss",
    ),
    "a gradient of zero": (
        (fills, "SAFE_VALUES", {}),
        lambda: functional(lambda x: pool()(ops.log(ops.square(plain.Dense(3, use_bias=False)(x))))),
        r'the gradient for ".*kernel" has NaN or infinite values, but that of each sequence alone has none',
    ),
    "a call of the model's own": (
        (walk, "refuse_own_methods", lambda model, caller, nested: None),
        twice,
        r"A sequence of 5 frames given to the plain model: the output differs by",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_without_its_cure_only(name, monkeypatch):
    (module, attribute, without), make, message = FAULTS[name]
    model = make()
    with monkeypatch.context() as patch:
        patch.setattr(module, attribute, without)
        faulty = layers.mask_aware(model)
        with pytest.raises(AssertionError, match=message):
            assert_padding_invariant(faulty, plain=model, lengths=(5, 3), padding=(1, 2), skip=("compiled", "saved"))
    try:
        cured = layers.mask_aware(model)
    except ArgumentError:
        assert not is_ok(model)
    else:
        assert_padding_invariant(cured, plain=model, lengths=(5, 3), padding=(1, 2), skip=("compiled", "saved"))


def test_frames_of_an_earlier_batch_are_found():
    """Keras' TimeDistributed, in a graph for any number of frames, answers with the number that it was built for."""
    if keras.backend.backend() != "tensorflow":
        pytest.skip("only TensorFlow has such graphs")
    inputs = named_inputs()
    faulty = layers.Model(inputs, plain.TimeDistributed(plain.Dense(3))(layers.LengthMask()(inputs)))
    with pytest.raises(AssertionError, match=r"an output has \d+ frames, but its mask has \d+"):
        assert_padding_invariant(faulty, **QUICK)
    model = functional(plain.TimeDistributed(plain.Dense(3)))
    assert_padding_invariant(layers.mask_aware(model), plain=model, **QUICK)


def named_inputs():
    return {"features": keras.Input((None, 4), name="features"), "lengths": keras.Input((), dtype="int32", name="lengths")}


def is_ok(model):
    try:
        return layers.check_model(model).ok
    except ArgumentError:
        return False


def test_what_mask_aware_refuses_is_not_ok(monkeypatch):
    """The seventh fault: check_model saw no layer that it knew to leak, and said ok."""
    model = keras.Sequential([keras.Input((3,)), plain.Dense(2)])
    with pytest.raises(ArgumentError, match="no input of the model is a sequence"):
        layers.mask_aware(model)
    assert [finding.problem for finding in layers.check_model(model).findings] == ["refused"]
    monkeypatch.setattr(check, "refused_by_mask_aware", lambda model: [])
    assert layers.check_model(model).ok
    with pytest.raises(ArgumentError, match="no input of the model has an open number of frames"):
        assert_padding_invariant(model)


def test_images_are_no_exception():
    image = [keras.Input((None, 8, 1)), plain.Conv2D(3, 3, padding="same"), plain.GlobalAveragePooling2D()]
    model = keras.Sequential(image)
    assert not is_ok(model)
    with pytest.raises(AssertionError, match="the output differs by"):
        assert_padding_invariant(model, **QUICK)


def test_ways_out_of_the_refusals():
    """What the messages advise is accepted, and exact."""
    weights = functional(lambda x: plain.Dot(axes=1)([plain.Softmax(axis=1)(plain.Dense(1)(x)), x]))
    assert_padding_invariant(layers.mask_aware(weights), plain=weights, **QUICK)
    normalized = functional(lambda x: plain.LayerNormalization()(plain.Dense(3)(x)))
    assert_padding_invariant(layers.mask_aware(normalized), plain=normalized, **QUICK)
    model = twice()
    aware = layers.mask_aware(keras.Model(model.input, model.output))

    class Own(layers.Model):
        def train_step(self, data):
            return {"mine": ops.convert_to_tensor(1.0)}

    own = Own(aware.input, aware.output)
    own.compile("sgd", "mse")
    batch = {"features": np.ones((2, 7, 4), "float32"), "lengths": np.array([7, 4])}
    if keras.backend.backend() != "jax":  # whose train_step takes the state, too
        assert own.fit(batch, np.zeros((2, 3)), verbose=0).history == {"mine": [1.0]}
    filled = filled_attention()
    assert layers.check_model(filled).ok
    assert_padding_invariant(filled, **QUICK)


def filled_attention(fill=layers.FillPadding):
    inputs = named_inputs()
    x = layers.LengthMask()(inputs)
    attended = plain.MultiHeadAttention(2, 4)(*([fill()(x)] * 2 if fill else [x, x]))
    return layers.Model(inputs, layers.GlobalMaxPooling1D()(layers.Add()([attended, layers.Conv1D(4, 3, padding="same")(x)])))


def test_attention_that_deletes_the_mask_of_later_layers_is_a_finding():
    first = layers.check_model(filled_attention(fill=None)).findings[0]
    assert (first.kind, first.problem) == ("MultiHeadAttention", "mask_lost")
    assert first.message == "deletes the mask of its own inputs, so layers that use these later treat padding as frames"


MIXING = "has an activation that mixes frames or rows, or that fails on some number of them"


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (lambda: plain.Activation(over_time), rf'"a" \(Activation\) {MIXING}\. Call the function on the output of the layer'),
        (lambda: plain.Conv1D(3, 3, activation=over_time), rf"\(Conv1D\) {MIXING}"),
        (lambda: layers.Conv1D(3, 3, activation=over_time), rf"\(Conv1D\) {MIXING}"),
        (lambda: plain.TimeDistributed(plain.Dense(3, activation=over_time)), rf"\(TimeDistributed\) {MIXING}"),
        (lambda: plain.GRU(3, activation=lambda t: ops.softmax(t, axis=0)), rf'{MIXING}\. Give the layer an activation .* such as "tanh"'),
        (lambda: plain.Activation(plain.LayerNormalization()), "has the layer LayerNormalization as its activation. Call that layer on"),
        (
            lambda: plain.TimeDistributed(plain.Dense(3, activation=ops.exp)),
            "wraps a layer with an activation that Keras did not",
        ),
    ],
)
def test_activations_are_refused_by_what_they_do(layer, message):
    layer = layer()
    layer.name = "a"
    model = functional(layer)
    with pytest.raises(ArgumentError, match=message):
        layers.mask_aware(model)
    assert not layers.check_model(model).ok


@pytest.mark.parametrize("method", ["call", "train_step", "compute_loss"])
def test_methods_of_a_model_are_refused_by_name(method):
    body = {"__module__": __name__, method: lambda self, *arguments, **options: getattr(super(cls, self), method)(*arguments, **options)}
    cls = type("Own", (keras.Sequential,), body)
    model = cls([keras.Input((None, 4)), plain.Dense(3)], name="m")
    for function in (layers.mask_aware, layers.check_model):
        with pytest.raises(ArgumentError, match=f'the model "m" \\(Own\\) has a {method} of its own, which cannot be inspected and would'):
            function(model)
    if method != "call":  # Keras trains the outer model only
        layers.mask_aware(functional(model))


@pytest.mark.parametrize("given", ["lengths", "mask"])
def test_several_inputs_and_tokens(given):
    audio, tokens, speaker = (
        keras.Input((None, 4), name="audio"),
        keras.Input((None,), dtype="int32", name="text"),
        keras.Input((2,), name="who"),
    )
    text = plain.Embedding(11, 4)(tokens)
    heard = plain.Conv1D(4, 3, padding="same")(audio)
    x = plain.MultiHeadAttention(2, 4)(text, heard)
    pooled = plain.Concatenate()([plain.GlobalAveragePooling1D()(x), pool()(heard), speaker])
    model = keras.Model([audio, tokens, speaker], {"pooled": plain.Dense(3)(pooled), "frames": plain.Dense(2)(x), "heard": heard})
    aware = layers.mask_aware(model, given=given)
    assert_padding_invariant(aware, plain=model, lengths=[(9, 4), (3, 7), (1, 1)], padding=(1, 3), skip=("compiled",))


def test_a_leak_of_the_gradient_alone_is_found():
    inputs = named_inputs()
    x = plain.Dense(3)(layers.LengthMask()(inputs))
    all_frames = ops.mean(x, axis=1)
    leaking = layers.Model(inputs, layers.GlobalAveragePooling1D()(x) + (all_frames - ops.stop_gradient(all_frames)))
    with pytest.raises(AssertionError, match=r"the gradient for .* differs by .* from that of the sequences alone; tolerance=0\.001"):
        assert_padding_invariant(leaking, **QUICK)


def test_own_weights_come_back():
    model = functional(lambda x: plain.BatchNormalization()(plain.Dense(3)(x)))
    before = model.get_weights()
    with pytest.raises(AssertionError, match="output differs"):
        assert_padding_invariant(functional(lambda x: ops.flip(model(x), axis=1)), **QUICK)
    for got, want in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(got, want)


def test_other_failures_have_messages():
    with pytest.raises(ArgumentError, match=r"assert_padding_invariant: skip=\['speed'\]; expected some of"):
        assert_padding_invariant(None, skip=["speed"])
    with pytest.raises(ArgumentError, match="assert_padding_invariant: Dense does not say what it takes, and feature_dim=None"):
        assert_padding_invariant(plain.Dense(3))
    with pytest.raises(AssertionError, match=r"A sequence of 2 frames alone: the model fails with \w+: .*"):
        assert_padding_invariant(functional(lambda x: x + ops.ones((1, 5, 4))), **QUICK)
    inputs = named_inputs()
    lost = layers.Model(inputs, plain.Conv1D(3, 2)(layers.LengthMask()(inputs)))
    with pytest.raises(AssertionError, match=r"the output has shape \(2, 3\), but \(1, 3\) for the sequence alone"):
        assert_padding_invariant(lost, **QUICK)


def frames_lost(x):
    """No frame is left of a sequence of up to 4 frames."""
    return plain.MaxPooling1D(2)(x[:, 3:])


EMPTY = {
    "maximum": lambda x: plain.Activation("sigmoid")(plain.GlobalMaxPooling1D()(frames_lost(x))),
    "mean": lambda x: ops.mean(frames_lost(x), axis=1),
    "logarithm of a sum": lambda x: ops.logsumexp(plain.Dense(3)(frames_lost(x)), axis=1),
    "number of the largest": lambda x: ops.argmax(frames_lost(x), axis=1),
    "frames": lambda x: plain.Dense(3)(frames_lost(x)),
    "beside another output": lambda x: [plain.GlobalMaxPooling1D()(frames_lost(x)), plain.GlobalAveragePooling1D()(x)],
}


@pytest.mark.parametrize("name", EMPTY)
def test_a_sequence_of_which_a_layer_has_no_frame_has_no_plain_answer(name, monkeypatch):
    """A mask-aware model answers it alike in any batch; a plain one fails, or gives NaN or minus infinity, which is no leak."""
    model = functional(EMPTY[name])
    aware = layers.mask_aware(model)
    assert_padding_invariant(aware, plain=model, lengths=(2, 4, 9), padding=(1, 3), skip=("compiled", "saved"))
    if name == "frames":  # a plain model whose real frames no padding changes
        assert_padding_invariant(functional(lambda x: plain.Dense(3)(x[:, 3:])), lengths=(2, 9), padding=(1,), skip=("compiled", "saved"))
    if name in ("maximum", "mean"):
        monkeypatch.setattr(layers.testing, "answered", lambda model, lengths: [True] * len(lengths))
        with pytest.raises(AssertionError, match="A sequence of 2 frames given to the plain model: the (output differs|model fails)"):
            assert_padding_invariant(aware, plain=model, lengths=(2,), padding=(), skip=("compiled", "saved", "gradients"))


def test_lengths_of_which_no_layer_has_a_frame_are_refused():
    model = functional(EMPTY["maximum"])
    for tested, options, which in ((model, {}, "model"), (layers.mask_aware(model), {"plain": model}, "plain model")):
        with pytest.raises(ArgumentError, match=rf"lengths=\(2, 3\); some layer of the {which} has no frame of any of these sequences"):
            assert_padding_invariant(tested, lengths=(2, 3), **options)
