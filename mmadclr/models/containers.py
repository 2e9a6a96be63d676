"""torch's containers of modules, with the types of what is in them; at run time they are torch's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

from torch import nn

if TYPE_CHECKING:
    from collections.abc import ItemsView, Iterable, Iterator, ValuesView

    from mmadclr.models.backbones.query_vit import QueryViT

    M = TypeVar('M', bound=nn.Module)

    class ModuleList(nn.ModuleList, Generic[M]):
        """A list of modules of one kind."""

        def __init__(self, modules: Iterable[M]) -> None: ...
        def __iter__(self) -> Iterator[M]: ...

    class Network(nn.ModuleDict):
        """A student or a teacher: a backbone, and heads of whatever kind the method has."""

        @overload
        def __getitem__(self, key: Literal['backbone']) -> QueryViT: ...
        @overload
        def __getitem__(self, key: str) -> Any: ...
        def __getitem__(self, key: str) -> Any: ...
        def items(self) -> ItemsView[str, Any]: ...
        def values(self) -> ValuesView[Any]: ...

else:
    ModuleList, Network = nn.ModuleList, nn.ModuleDict
