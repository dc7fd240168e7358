"""Which fields of a plan are parsed of each record, because their values cannot be copied as they are stored."""

from __future__ import annotations

from vlpipe.planning.plan import Plan
from vlpipe.storage.field_access import Location


class ParsedFields:
    """The fields of a plan whose location is ENCODED or CUSTOM.

    Attributes:
        lengths: for each feature and each aligned label that is parsed, the access to the frames that it must have.
        labels: further labels that are parsed.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan, self._index = plan, plan.index
        selection = plan.selection
        accesses = {
            name: plan.index.access(name, as_feature=name in selection.features) for name in (*selection.features, *selection.labels)
        }
        parsed = [name for name, access in accesses.items() if access.is_parsed]
        self._parts = [part for part in selection.frame_parts if part.name in parsed]
        key = accesses[selection.key]
        self.lengths = {part.name: accesses[part.name] if accesses[part.name].is_counted else key for part in self._parts}
        self.labels = [name for name in parsed if name not in self.lengths]
        self._is_custom = any(accesses[name].location is Location.CUSTOM for name in parsed)

    def __bool__(self) -> bool:
        return bool(self.lengths or self.labels)
