"""Models take their inputs by key: further keys of a batch never change what a model computes, and a lacking key is an error."""

import itertools

import keras
import numpy as np
import pytest

import vlpipe
from tests.layers.layers_tools import numpy
from vlpipe import layers
from vlpipe.errors import ArgumentError

plain = keras.layers
EXTRAS = [keys for size in (0, 1, 3) for keys in itertools.combinations(("id", "label_lengths", "start"), size)]
LENGTHS = {"features": [9, 4, 6, 1], "pitch": [3, 8, 8, 2]}
SINGLE, SEVERAL = ("features",), ("features", "pitch")
LABELS = np.array([2, 0, 1, 2])


def ordinary(names):
    """An ordinary model of one or two sequences [B, T, 4], which is then made mask-aware."""
    inputs = [keras.Input((None, 4), name=name) for name in names]
    pooled = [plain.GlobalAveragePooling1D()(plain.Dense(5, activation="relu")(x)) for x in inputs]
    outputs = plain.Dense(3)(pooled[0] if len(pooled) == 1 else plain.Concatenate()(pooled))
    return keras.Model(inputs if len(inputs) > 1 else inputs[0], outputs)


def mask_aware(names):
    return layers.mask_aware(ordinary(names))


def by_hand(names):
    """The same, from the layers themselves."""
    keys = [("lengths" if len(names) == 1 else f"{name}_lengths") for name in names]
    inputs = {name: keras.Input((None, 4), name=name) for name in names}
    inputs |= {key: keras.Input((), dtype="int32", name=key) for key in keys}
    pooled = []
    for name, key in zip(names, keys, strict=True):
        x = layers.LengthMask()({"features": inputs[name], "lengths": inputs[key]})
        pooled.append(layers.GlobalAveragePooling1D()(plain.Dense(5, activation="relu")(x)))
    return layers.Model(inputs, plain.Dense(3)(pooled[0] if len(pooled) == 1 else layers.Concatenate()(pooled)))


class Subclassed(keras.Model):
    """A model with a call of its own, which gives LengthMask the whole dict."""

    def __init__(self):
        super().__init__()
        self.entry, self.pool = layers.LengthMask(), layers.GlobalAveragePooling1D()
        self.first, self.last = plain.Dense(5, activation="relu"), plain.Dense(3)

    def call(self, inputs):
        return self.last(self.pool(self.first(self.entry(inputs))))


def a_batch(names, extras=()):
    rng = np.random.default_rng(0)
    batch = {name: rng.normal(size=(4, 9, 4)).astype("float32") for name in names}
    batch |= {"lengths" if len(names) == 1 else f"{name}_lengths": np.array(LENGTHS[name], "int32") for name in names}
    further = {"id": [3, 0, 7, 2], "label_lengths": [5, 2, 1, 1], "start": [0, 4, 8, 2]}  # all of them could be lengths
    return batch | {key: np.array(further[key]) for key in extras}


def reference(model, batch, names):
    """The logits of each row, in NumPy, from its real frames alone."""
    weights = [numpy(w) for w in model.weights]
    dense, (kernel, bias) = weights[:-2], weights[-2:]
    pooled = [
        np.stack([np.maximum(x[:n] @ w + b, 0).mean(0) for x, n in zip(batch[name], LENGTHS[name], strict=True)])
        for name, w, b in zip(names, dense[::2], dense[1::2], strict=True)
    ]
    return np.concatenate(pooled, 1) @ kernel + bias


def cross_entropy(logits):
    return float(np.mean([np.log(np.exp(row).sum()) - row[label] for row, label in zip(logits, LABELS, strict=True)]))


def compiled(model):
    model.compile(keras.optimizers.SGD(0.5), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


@pytest.mark.parametrize("names", [SINGLE, SEVERAL], ids=len)
@pytest.mark.parametrize(("make", "every"), [(mask_aware, EXTRAS), (by_hand, [EXTRAS[0], EXTRAS[-1]])])
def test_further_keys_change_nothing(make, every, names):
    """What each way of Keras gives equals NumPy on the real frames, with every set of further keys."""
    model = compiled(make(names))
    every = every if names == SINGLE else [EXTRAS[0], EXTRAS[-1]]
    start = model.get_weights()
    want = reference(model, a_batch(names), names)
    trained = {}
    for extras in every:
        batch = a_batch(names, extras)
        for got in (numpy(model(batch)), model.predict(batch, verbose=0), model.predict_on_batch(batch)):
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
        losses = [model.evaluate(batch, LABELS, verbose=0), model.test_on_batch(batch, LABELS), model.train_on_batch(batch, LABELS)]
        trained[extras, "train_on_batch"] = model.get_weights()
        model.set_weights(start)
        losses += model.fit(batch, LABELS, batch_size=4, verbose=0).history["loss"]
        trained[extras, "fit"] = model.get_weights()
        model.set_weights(start)
        np.testing.assert_allclose(losses, cross_entropy(want), rtol=1e-5)
    assert not np.allclose(trained[(), "fit"][-1], start[-1])
    for weights in trained.values():
        for got, expected in zip(weights, trained[(), "fit"], strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("extras", EXTRAS, ids="-".join)
def test_a_model_with_its_own_call_reads_the_lengths_by_key(extras):
    model = Subclassed()
    batch = a_batch(SINGLE, extras)
    got = numpy(model(batch))
    np.testing.assert_allclose(got, reference(model, batch, SINGLE), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("names", [SINGLE, SEVERAL], ids=len)
def test_a_mask_is_taken_by_key_too(names):
    model = layers.mask_aware(ordinary(names), given="mask")
    batch = a_batch(names, ("id", "start"))
    for key in [key for key in batch if key.endswith("lengths")]:
        batch[key.removesuffix("lengths") + "mask"] = np.arange(9) < batch.pop(key)[:, None]
    np.testing.assert_allclose(numpy(model(batch)), reference(model, batch, names), rtol=1e-5, atol=1e-5)


def test_a_model_inside_another_selects_too():
    """Called on symbolic inputs with further keys, the inner model is connected to its own inputs only."""
    inner = mask_aware(SINGLE)
    inputs = {"features": keras.Input((None, 4), name="features"), "id": keras.Input((), dtype="int32", name="id")}
    inputs |= {"lengths": keras.Input((), dtype="int32", name="lengths"), "start": keras.Input((), dtype="int32", name="start")}
    outer = layers.Model(inputs, inner(inputs))
    batch = a_batch(SINGLE, ("id", "label_lengths", "start"))
    np.testing.assert_allclose(numpy(outer(batch)), reference(inner, batch, SINGLE), rtol=1e-5, atol=1e-5)
    assert inner.compute_output_shape({"features": (2, 9, 4), "id": (2,), "lengths": (2,)}) == (2, 3)


def test_what_make_dataset_delivers(tmp_path):
    """Ids, and a label of free length, beside the lengths: predictions and losses are those of each record alone."""
    rng = np.random.default_rng(0)
    sequences = [rng.normal(size=(n, 4)).astype("float32") for n in rng.integers(5, 40, 30)]
    schema = vlpipe.Schema(features=vlpipe.Sequence(4), label=vlpipe.Fixed((), "int64"), words=vlpipe.Sequence((), "int64"))
    with vlpipe.Writer(tmp_path / "d", schema) as writer:
        for i, x in enumerate(sequences):
            writer.write({"features": x, "label": i % 3, "words": np.arange(i % 4)})
    model = ordinary(SINGLE)
    alone = np.concatenate([numpy(model(x[None])) for x in sequences])
    aware = compiled(layers.mask_aware(model))
    further = {"features": "features", "lengths": True, "ids": True, "batch_size": 4, "shuffle": False}
    data = vlpipe.make_dataset(tmp_path / "d", label=("label", "words"), **further)
    assert sorted(data.element_spec[0]) == ["features", "id", "lengths", "words_lengths"]
    ids = np.concatenate([x["id"].numpy() for x, _ in data])
    np.testing.assert_allclose(aware.predict(data.map(lambda x, y: (x,)), verbose=0), alone[ids], rtol=1e-4, atol=1e-5)
    labelled = vlpipe.make_dataset(tmp_path / "d", label="label", **further)
    want = np.mean([np.log(np.exp(row).sum()) - row[i % 3] for i, row in enumerate(alone)])
    np.testing.assert_allclose(aware.evaluate(labelled, verbose=0), want, rtol=1e-4)
    assert np.isfinite(aware.fit(labelled, verbose=0).history["loss"]).all()


def test_a_copy_and_a_loaded_model_take_their_inputs_by_key(tmp_path):
    aware = mask_aware(SEVERAL)
    aware.save(tmp_path / "model.keras")
    batch = a_batch(SEVERAL, ("id", "label_lengths", "start"))
    copied = keras.models.clone_model(aware)
    copied.set_weights(aware.get_weights())
    for model in (keras.saving.load_model(tmp_path / "model.keras"), copied):
        assert type(model) is layers.Model
        np.testing.assert_allclose(model.predict(batch, verbose=0), reference(aware, batch, SEVERAL), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("way", ["__call__", "predict_on_batch", "predict"])
def test_a_batch_without_a_key_is_refused(way):
    batch = a_batch(SINGLE, ("id",))
    del batch["lengths"]
    with pytest.raises(ArgumentError, match=r"the batch lacks \['lengths'\]; found \['features', 'id'\], expected the keys"):
        getattr(mask_aware(SINGLE), way)(batch)


def test_a_batch_that_is_no_dict_is_refused():
    batch = a_batch(SINGLE)
    with pytest.raises(ArgumentError, match="got list; expected a dict with the keys"):
        mask_aware(SINGLE)(list(batch.values()))


def test_a_model_without_a_dict_is_as_in_keras():
    inputs = keras.Input((None, 4), name="features")
    model = layers.Model(inputs, plain.GlobalMaxPooling1D()(inputs), name="m")
    x = np.ones((2, 3, 4), "float32")
    assert model.name == "m"
    np.testing.assert_array_equal(numpy(model(x)), np.ones((2, 4)))
    np.testing.assert_array_equal(model.predict(x, verbose=0), np.ones((2, 4)))
