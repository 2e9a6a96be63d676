"""Names for annotations."""

from typing import Any, TypeAlias

# ``Tensor | MaybeNone``: None now and then, and whoever reads it knows when. Type checkers take it for a ``Tensor`` but let
# None pass; typeshed has the same name for the same purpose.
MaybeNone: TypeAlias = Any
