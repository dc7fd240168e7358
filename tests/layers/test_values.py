"""Operations whose answer, or whose gradient, hangs on what stands in the padding, in rows without frames, and in other rows."""

import inspect
import re

import keras
import numpy as np
import pytest
from keras import ops

from tests.layers.layers_tools import gradients, numpy
from vlpipe import layers
from vlpipe.errors import ArgumentError
from vlpipe.layers.fills import SAFE_VALUES
from vlpipe.layers.operations import ALONG, ELEMENTWISE_OPS

plain = keras.layers
JAX = keras.backend.backend() == "jax"
LENGTHS = np.array([6, 3, 0, 5])
X = np.random.default_rng(0).normal(size=(4, 8, 4)).astype("float32")
BATCH = {"features": X, "lengths": LENGTHS}


def functional(body, shape=(None, 4), dtype="float32"):
    inputs = keras.Input(shape, dtype=dtype)
    return keras.Model(inputs, body(inputs))


def frame_model(body):
    return plain.TimeDistributed(functional(body, (4,)))


def projected(x, units=4):
    """No bias: a frame of zeros stays one, as it does in most models before they are trained."""
    return plain.Dense(units, use_bias=False)(x)


def mean(x):
    return plain.GlobalAveragePooling1D()(x)


def assert_exact(model, x=X, lengths=LENGTHS):
    """Each padded row that has frames has the plain model's answer to the row alone."""
    together = numpy(layers.mask_aware(model)({"features": x, "lengths": lengths}))
    for got, row, n in zip(together, x, lengths, strict=True):
        if n:
            np.testing.assert_allclose(got, numpy(model(row[None, :n]))[0], rtol=1e-5, atol=1e-6)
    return together


def assert_gradients(model):
    """The gradient of a batch is finite, and the sum of those of its rows."""
    aware = layers.mask_aware(model)

    def loss(y):
        return ops.sum(ops.square(y))

    got = gradients(aware, BATCH, loss, False)
    frames = [8 if JAX else max(n, 1) for n in LENGTHS]  # JAX compiles each shape anew
    alone = [gradients(aware, {"features": X[[r], : frames[r]], "lengths": LENGTHS[[r]]}, loss, False) for r in range(4)]
    for one, *others in zip(got, *alone, strict=True):
        np.testing.assert_allclose(one, sum(others), rtol=1e-4, atol=1e-4 * np.abs(sum(others)).max())


TOKENS = np.array([[3, 5, 2, 9, 5, 0, 0, 0], [9, 9, 7, 0, 0, 0, 0, 0], [0] * 8, [4, 4, 4, 4, 4, 0, 0, 0]])


@pytest.mark.parametrize("dtype", ["int32", *([] if JAX else ["int64"]), "int8", "uint8", "bool", "float32"])
@pytest.mark.parametrize("name", ["argmin", "argmax", "min", "max"])
def test_extremes_of_every_data_type_are_those_of_the_real_frames(name, dtype):
    """Negative numbers, numbers above 0 only, and equal ones, of which the first counts; the padding holds the greatest and the least."""
    values = [lambda t: t, lambda t: t > 4, lambda t: t > 99, lambda t: ops.cast(t, "bool")]
    for value in values if dtype == "uint8" else [*values, lambda t: -t - 1]:
        number = "int32" if dtype == "bool" else dtype
        model = functional(lambda t, value=value: ops.cast(getattr(ops, name)(value(t), axis=1), "float32"), (None,), number)
        for padding in (0, 100):
            x = np.where(np.arange(8) < LENGTHS[:, None], TOKENS, padding).astype(number)
            assert numpy(assert_exact(model, x))[2] == 0  # a row without frames


@pytest.mark.parametrize("order", [0, 0.5, 1, 2, 3, np.inf, -np.inf, -1, "fro", "nuc"])
def test_norms_over_the_frames_are_exact_or_refused(order):
    for axis in [1] if isinstance(order, float) and order == 0.5 else [(1, 2)] if isinstance(order, str) else [1, (1, 2)]:
        if (order in (0, 3)) and axis != 1:
            continue  # of vectors only
        model = functional(lambda x, axis=axis: ops.norm(x, ord=order, axis=axis))
        if not isinstance(order, str) and order < 0:
            with pytest.raises(ArgumentError, match="which zeros in the padding would change"):
                layers.mask_aware(model)
        else:
            if not JAX or isinstance(order, str):  # where Keras fails for any x
                assert_exact(model)


def snake(name):
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def calls():
    """Yield each operation that acts on values or along features, with every value of its operands the same."""
    for name in sorted(ELEMENTWISE_OPS | set(ALONG)):
        op = getattr(ops, snake(name), getattr(ops, name.lower(), None))
        if op is None or (JAX and name not in SAFE_VALUES):  # to save time
            continue
        parameters = inspect.signature(op).parameters.values()
        needed = [p for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
        if name in ALONG and len(needed) == 1:
            yield name, lambda x, op=op: op(x, axis=-1)
        elif name not in ALONG and name not in ("Clip", "FullLike", "Cast", "SaturateCast", "Where") and len(needed) < 3:
            yield name, lambda x, op=op, needed=needed: op(*[x] * len(needed))


def test_no_operation_has_an_infinite_gradient_in_the_padding():
    """At 0, where the padding of a model without biases is, or at the value that it is set to before the operation."""
    inputs, tried, missing = keras.Input((None, 4)), [], []
    for name, call in calls():
        value = SAFE_VALUES.get(name, 0.0)
        x = layers.FillPadding(value)(layers.LengthMask()({"features": X * 0, "lengths": LENGTHS * 0}))
        scale = plain.Dense(4, use_bias=False, kernel_initializer="identity")
        try:
            model = keras.Model(inputs, ops.cast(call(scale(inputs)), "float32"))
            found = gradients(model, numpy(x), ops.sum, False)
        except Exception:  # of integers, complex numbers, lists of outputs
            continue
        tried.append(name)
        if not all(np.isfinite(values).all() for values in found):
            missing.append(name)
    assert len(tried) > (20 if JAX else 90)
    assert missing == []


HARD = {
    "fmod": lambda x: ops.fmod(projected(x), projected(x)),
    "sinc": lambda x: ops.sinc(projected(x)),
    "hypot": lambda x: ops.hypot(projected(x), projected(x)),
    "std": lambda x: ops.std(projected(x), axis=-1, keepdims=True),
    "model of a frame with a logarithm": lambda x: frame_model(lambda q: ops.log(ops.abs(projected(q))))(x),
    "model of a frame with a norm": lambda x: frame_model(lambda q: plain.UnitNormalization()(projected(q)))(x),
    "layer norm": lambda x: plain.LayerNormalization(epsilon=0.0)(projected(x)),
    "rms norm": lambda x: plain.RMSNormalization(epsilon=0.0)(projected(x)),
    "cosine": lambda x: plain.Dot(axes=(2, 1), normalize=True)([projected(x), mean(projected(x))])[..., None],
    "activation": lambda x: plain.Dense(4, use_bias=False, activation=lambda t: t / ops.std(t, axis=-1, keepdims=True))(x),
}


@pytest.mark.parametrize("name", HARD)
def test_gradients_are_finite_where_the_padding_is_zero(name):
    assert_gradients(functional(lambda x: mean(HARD[name](x))))


def weighted_mean(x):
    weights = ops.exp(projected(x, 1))
    return ops.sum(weights * x, axis=1) / ops.sum(weights, axis=1)


def nested_pooling(x):
    inputs = keras.Input((None, 4))
    return keras.Model(inputs, projected(weighted_mean(inputs), 3))(x)


EMPTY = {
    "weights by hand": lambda x: projected(weighted_mean(projected(x))),
    "nested": nested_pooling,
    "nested head": lambda x: functional(lambda p: plain.UnitNormalization()(p), (4,))(mean(projected(x))),
    "nested logarithm": lambda x: functional(lambda p: ops.log(ops.abs(projected(p))), (4,))(mean(projected(x))),
    "lambda": lambda x: plain.Lambda(lambda p: p / ops.sqrt(ops.sum(p * p, axis=-1, keepdims=True)))(mean(projected(x))),
    "lambda of two": lambda x: plain.Lambda(lambda p: p[0] / p[1])([ops.sum(projected(x), axis=1), ops.sum(ops.exp(projected(x)), axis=1)]),
    "logarithm": lambda x: ops.log(ops.mean(ops.square(projected(x)), axis=1)),
    "root": lambda x: ops.sqrt(ops.mean(ops.square(projected(x)), axis=1)),
    "root of one plus": lambda x: ops.rsqrt(ops.mean(ops.square(projected(x)), axis=1) * 2),
    "unit": lambda x: plain.UnitNormalization()(mean(projected(x))),
    **({} if JAX else {"norm": lambda x: ops.norm(mean(projected(x)), axis=-1)}),  # which in Keras on JAX fails for any x
    "cosine": lambda x: plain.Dot(axes=1, normalize=True)([mean(projected(x)), mean(projected(x))]),
    "group norm": lambda x: mean(plain.Dense(2)(plain.GroupNormalization(1, epsilon=0.0)(projected(x)))),
    "statistics": lambda x: layers.StatisticsPooling1D(epsilon=0.0)(projected(x)),
}


@pytest.mark.parametrize("name", EMPTY)
def test_a_row_without_frames_gives_finite_numbers_and_no_gradient(name):
    model = functional(EMPTY[name])
    if name != "statistics":  # a layer of vlpipe, which the plain model has too
        assert_exact(model)
    assert np.isfinite(numpy(layers.mask_aware(model)(BATCH))).all()
    assert_gradients(model)


def test_fit_with_a_row_without_frames_leaves_finite_weights(tmp_path):
    aware = layers.mask_aware(functional(EMPTY["weights by hand"]))
    aware.compile("sgd", "mse")
    aware.fit(BATCH, np.ones((4, 4)), sample_weight=np.array([1.0, 1, 0, 1]), verbose=0)
    assert all(np.isfinite(w).all() for w in aware.get_weights())
    aware.save(tmp_path / "m.keras")
    saved = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(numpy(saved(BATCH)), numpy(aware(BATCH)), rtol=1e-6)


class Centred(plain.Layer):
    def call(self, inputs):
        return inputs - ops.mean(inputs, axis=0, keepdims=True)


MIXED = {
    "mean": lambda p, x: p - ops.mean(p, axis=0, keepdims=True),
    "moments": lambda p, x: p - ops.moments(p, [0])[0],
    "all axes": lambda p, x: p / ops.max(p),
    "softmax": lambda p, x: ops.softmax(p, axis=0),
    "softmax layer": lambda p, x: plain.Softmax(axis=0)(p),
    "sort": lambda p, x: ops.sort(p, axis=0),
    "broadcast": lambda p, x: ops.max(p[:, None] * p, axis=1),
    "matmul": lambda p, x: ops.matmul(ops.matmul(p, ops.transpose(p)), p),
    "einsum": lambda p, x: ops.einsum("bd,cd->bc", p, p),
    "einsum with frames": lambda p, x: ops.max(ops.einsum("btd,cd->btc", x, p), 1),
    "layer": lambda p, x: Centred()(p),
    "lambda": lambda p, x: plain.Lambda(lambda t: t / ops.max(t, axis=0, keepdims=True))(p),
}


@pytest.mark.parametrize("name", MIXED)
def test_operations_across_the_batch_are_refused_behind_a_pooling_too(name):
    model = functional(lambda x: MIXED[name](mean(x), x))
    with pytest.raises(
        ArgumentError, match=r"lets each row of a batch depend on the others\. Act along the features|pairs frames with frames"
    ):
        layers.mask_aware(model)
    assert not layers.check_model(model).ok


def test_the_part_across_the_batch_runs_behind_the_mask_aware_model():
    """What the refusal advises; and `check_model` names the layer in a model built by hand too."""
    aware = layers.mask_aware(functional(mean))
    whole = layers.Model(aware.input, MIXED["mean"](aware.output, None))
    pooled = np.stack([row[:n].mean(axis=0) if n else np.zeros(4) for row, n in zip(X, LENGTHS, strict=True)])
    np.testing.assert_allclose(numpy(whole(BATCH)), pooled - pooled.mean(axis=0), rtol=1e-5, atol=1e-6)
    (finding,) = layers.check_model(whole).findings
    assert (finding.kind, finding.problem) == ("Mean", "unknown")


class Sampled(plain.Layer):
    def call(self, inputs):
        return inputs + 0 * keras.random.normal(ops.shape(inputs))


KEPT = {
    "features": lambda p, x: p - ops.mean(p, axis=-1, keepdims=True),
    "matmul": lambda p, x: ops.matmul(p, ops.ones((4, 3))),
    "matrices of a row": lambda p, x: ops.matmul(plain.Reshape((2, 2))(p), plain.Reshape((2, 2))(p)),
    "einsum": lambda p, x: ops.einsum("bd,bk->bdk", p, p),
    "scores of frames": lambda p, x: ops.max(ops.einsum("btd,bd->bt", x, p), 1),
    "constants": lambda p, x: p[:, None] * ops.ones((1, 3, 4)) + ops.ones((3, 1)),
    "there and back": lambda p, x: ops.transpose(ops.transpose(p)),
    "folded": lambda p, x: ops.reshape(plain.Dense(3)(ops.reshape(p, (-1, 2))), (-1, 6)),
    "stacked": lambda p, x: ops.concatenate([ops.stack([p, p], axis=1), p[:, None]], axis=1),
    "random": lambda p, x: p if JAX else Sampled()(p),  # it would not trace the layer
    "tile": lambda p, x: mean(ops.tile(x, (1, 1, 2))),
    "tile of a lambda": lambda p, x: mean(plain.Lambda(lambda t: ops.tile(t, (1, 1, 2)))(x)),
    "top": lambda p, x: mean(ops.concatenate([ops.top_k(x, 2)[0], ops.cast(ops.top_k(x, 1)[1], "float32")], axis=-1)),
}


@pytest.mark.parametrize("name", KEPT)
def test_operations_on_features_and_within_rows_are_kept(name):
    assert_exact(functional(lambda x: KEPT[name](mean(x), x)))


def test_numbers_that_are_looked_up_stay_on_their_frames():
    table = np.random.default_rng(1).normal(size=(10, 4)).astype("float32")
    assert_exact(functional(lambda t: mean(ops.take(table, t, axis=0)), (None,), "int32"), TOKENS.astype("int32"))
    model = functional(lambda t: ops.take(table.T, t[..., None], axis=-1), (None,), "int32")  # [4, B, T, 1]
    with pytest.raises(ArgumentError, match="moves the frame axis"):
        layers.mask_aware(model)
    assert_exact(functional(lambda x: mean(ops.take(x, [3, 0], axis=-1))))


def test_reshapes_to_a_number_of_frames_are_that_of_the_model_or_refused():
    for shape in ((-1, 5, 4), (-1, 2, 2, 4)):
        with pytest.raises(ArgumentError, match="cuts sequences into pieces of . frames"):
            layers.mask_aware(functional(lambda x, shape=shape: ops.reshape(x, shape)))
    fixed = functional(lambda x: ops.reshape(x, (-1, 8, 2, 2)), (8, 4))
    assert tuple(layers.mask_aware(fixed)(BATCH).shape) == (4, 8, 2, 2)
    with pytest.raises(ArgumentError, match="cuts sequences into pieces of 4 frames"):
        layers.mask_aware(functional(lambda x: ops.reshape(x, (-1, 4, 4)), (8, 4)))
