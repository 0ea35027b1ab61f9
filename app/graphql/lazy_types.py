"""Lazy types of inputs that are found once: Strawberry looks for the module's file at each value of such a type."""

from functools import cache
from typing import Any, ForwardRef

from strawberry.types.lazy_type import LazyType, StrawberryLazyReference


class FoundOnce(StrawberryLazyReference):
    """A lazy reference, as `strawberry.lazy` makes it, whose type is remembered."""

    def __init__(self, reference: StrawberryLazyReference) -> None:
        super().__init__(reference.module)

    def resolve_forward_ref(self, forward_ref: ForwardRef) -> LazyType[Any, Any]:
        return _FoundOnce(forward_ref.__forward_arg__, self.module)


class _FoundOnce(LazyType[Any, Any]):
    def resolve_type(self) -> type[Any]:
        return found(self.type_name, self.module)


@cache
def found(name: str, module: str) -> type[Any]:
    """The type of this name. Raises KeyError, and remembers nothing, while the module lacks it."""
    return LazyType[Any, Any](name, module).resolve_type()
