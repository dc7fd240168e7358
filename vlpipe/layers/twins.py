"""The layers of a mask-aware model while it is made: one for each way in which an operation is called, each under a name of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from vlpipe.layers.role import Role
from vlpipe.layers.roles import share_weights
from vlpipe.layers.walk import described
from vlpipe.layers.wrappers import Weight


class Twins:
    """The layers that `mask_aware` has made so far.

    A layer that the model calls several times gets one layer for all calls if it has weights, so that a saved model loads with shared
    ones; without weights, it gets one for each shape.

    Args:
        model: the Functional model whose names are taken.
        before: of a first run through the same model: the roles of its layers, and the replacements that the user gave, are kept.
    """

    def __init__(self, model: Any, before: Twins | None = None) -> None:
        self._layers: dict[Any, Any] = {key: layer for key, layer in (before._layers if before else {}).items() if key[1] == "replacement"}
        self._inlined: dict[int, Any] = dict(before._inlined if before else {})
        self._again = False
        self._roles: dict[int, tuple[Any, Role]] = dict(before._roles if before else {})  # with the operation, which keeps its id alive
        self._named: dict[int, Any] = {}  # the layer that has the name of an operation, by the id of the operation
        self._early: set[int] = set()  # layers with weights that were called without frames before it was known that they have a twin
        self._operations = operations_in(model)
        self._taken = {x.name for x in self._operations}

    @property
    def unfinished(self) -> bool:
        """Whether weights are in two layers or models, of which Keras saves one: a second run, which knows of them, avoids it."""
        return self._again or any(
            stands_in(role) or self.replacement(one) for key, (one, role) in self._roles.items() if key in self._early
        )

    def inlined(self, operation: Any) -> bool:
        """Whether the layers inside a model, or a layer of the user, are called in its place: Keras cannot save two models of them."""
        return id(operation) in self._inlined

    def inline(self, operation: Any) -> None:
        self._inlined[id(operation)], self._again = operation, True

    def clash(self, functional: Any) -> str:
        """Return the name of an operation of a nested model if another one, anywhere, has the same, else ""."""
        others = [x for x in self._operations if x not in functional.operations]
        names = {x.name for x in others if not isinstance(x, keras.layers.InputLayer)}
        return next((x.name for x in functional.operations if x.name in names and not isinstance(x, keras.layers.InputLayer)), "")

    def note(self, operation: Any, role: Role) -> None:
        """Keep the role that an operation has when it is called on frames."""
        self._roles[id(operation)] = operation, role

    def role_without_frames(self, operation: Any) -> Role:
        """Return how to call an operation on tensors without frames: as its twin if that has its weights."""
        role = self._roles.get(id(operation), (operation, Role()))[1]
        return role if getattr(operation, "variables", None) and stands_in(role) else Role()

    def replacement(self, operation: Any) -> Any:
        """Return the layer that the user gave for an operation that is called on frames as well, or None."""
        return self._layers.get((id(operation), "replacement"))

    def take(self, graph: Any) -> None:
        """Take the names in a model that has been found inside a layer; give its operations names that are free."""
        for operation in graph.operations:
            made = isinstance(operation, Weight) or not isinstance(operation, keras.layers.Layer)
            if made and operation.name in self._taken:
                operation.name = self.unique(operation.name)
        self._operations += operations_in(graph)
        self._taken |= {x.name for x in self._operations}

    def get(self, operation: Any, key: Any, make: Callable[[], Any]) -> Any:
        """Return the layer that stands for an operation in calls with this key; it has the name of the operation if that is free."""
        key = (id(operation), key)
        if key not in self._layers:
            layer = self._layers[key] = make()
            if layer is not None and layer is not operation:
                free = layer.name == operation.name and self._named.setdefault(id(operation), layer) is layer
                layer.name = layer.name if free else self.unique(layer.name)
        return self._layers[key]

    def variants(self, operation: Any, kind: str) -> int:
        """Return how many layers of a kind stand for an operation."""
        return sum(key[0] == id(operation) and key[1][0] == kind for key in self._layers)

    def twin(self, operation: Any, role: Role, input_shape: Any, *structures: Any) -> Any:
        """Return the layer to call for an operation: itself, or what its role makes."""
        if not role.twin:
            self._keep_name(operation)
            return operation
        weights = getattr(operation, "variables", None)

        def make() -> Any:
            layer = role.twin() if role.twin else operation
            if layer is not operation and weights:
                share_weights(layer, operation, input_shape)
            return layer

        return self.get(operation, ("twin", role.variant, "" if weights else described(structures)), make)

    def graph(self, operation: Any, found: Any, *arguments: Any) -> Any:
        """Return the graph of an operation for calls with such arguments, which is the one `found` if it is the first."""
        graph = self._layers.setdefault((id(operation), ("graph", described(arguments))), found)
        if graph is found:
            self.take(graph)
        return graph

    def part(self, operation: Any, kind: str, make: Callable[[str], Any]) -> Any:
        """Return the layer that stands beside an operation in all its calls."""
        return self.get(operation, kind, lambda: make(f"{operation.name}_{kind}"))

    def weight(self, layer: Any) -> Any:
        """Return the one layer `Weight` for its variable: each call of a layer of the user is followed in a graph of its own."""
        return self._layers.setdefault(("weight", id(layer.weight)), layer)

    def call_as_it_is(self, operation: Any) -> None:
        """Note that an operation is called itself, so that it keeps its name."""
        if getattr(operation, "variables", None):
            self._early.add(id(operation))
        self._keep_name(operation)

    def _keep_name(self, operation: Any) -> None:
        layer = self._named.get(id(operation), operation)
        if layer is not operation:
            layer.name = self.unique(layer.name)
        self._named[id(operation)] = operation

    def unique(self, name: str) -> str:
        """Return a name that no layer has."""
        number, wanted = 0, name
        while name in self._taken:
            number += 1
            name = f"{wanted}_{number}"
        self._taken.add(name)
        return name


def stands_in(role: Role) -> bool:
    return role.twin is not None or role.graph is not None


def operations_in(model: Any) -> list[Any]:
    """Return all operations of a model, and of the models in it."""
    functional = getattr(model, "_functional", None) or model
    own = list(getattr(functional, "operations", None) or model.layers)
    return own + [x for one in own if isinstance(one, keras.Model) for x in operations_in(one)]
