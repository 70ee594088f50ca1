"""The contents of a checkpoint as its intent or manifest tells them: nothing in them may surprise who loads them. Pure.

An agent refuses what does not fit before anything of it is signed, and a standby before it is loaded. Every check comes
before anything is made in the size that the text claims.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence

from pipelines.errors import CorruptError
from schemas.records import Item, Shard

NUMBER_MAX = 2**63 - 1
DIMENSIONS_MAX = 64
PATH_NUMBER_MAX = 1_000_000  # a place in a list: who loads it makes the list so long
TENSOR, JSON = "tensor", "json"
_BYTES_OF: dict[int, str] = {
    1: "bool int8 uint8 bits8 bits4x2 bits2x4 bits1x8 float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz "
    "float8_e8m0fnu float4_e2m1fn_x2",
    2: "float16 bfloat16 int16 uint16 bits16",
    4: "float32 int32 uint32 complex32 bcomplex32",
    8: "float64 int64 uint64 complex64",
    16: "complex128",
}
ELEMENT_BYTES = {name: size for size, names in _BYTES_OF.items() for name in names.split()}
"""The bytes of one element, by torch's name of the type: all that torch 2.13 can copy.

A quantized tensor that is made from raw bytes ends its process (seen), and our writer stores none.
"""


def check_contents(
    where: str, *, world_size: int, shards: Sequence[Shard], items: Sequence[Item], planner: str
) -> None:
    """Check what a checkpoint says of itself.

    Args:
        where: the checkpoint, for the error's text.
        world_size: how many ranks it has.
        shards: of the ranks.
        items: the values in the shards.
        planner: DCP's flatten mapping, as JSON.

    Raises:
        CorruptError: it does not fit together; the text says what.
    """
    for wrong in (
        _shards(world_size, shards),
        _items(items, {one.rank: one.size for one in shards}),
        _planner(planner),
    ):
        if wrong:
            raise CorruptError(f"{where}: {wrong}")


def _shards(world_size: int, shards: Sequence[Shard]) -> str:
    if world_size < 1 or len(shards) != world_size or sorted(one.rank for one in shards) != list(range(len(shards))):
        return f"{len(shards)} shards are not those of the ranks of world size {world_size}"
    for shard in shards:
        sizes = [shard.size, *(chunk.size for chunk in shard.chunks)]
        if not _numbers(sizes) or sum(sizes) != 2 * shard.size:
            return f"the chunks of rank {shard.rank} do not add up to its shard"
    return ""


def _items(items: Sequence[Item], sizes: dict[int, int]) -> str:
    elements: dict[str, int] = {}
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {}
    for item in items:
        inside = _numbers([item.offset, item.length]) and item.offset + item.length <= sizes.get(item.rank, -1)
        if not inside:
            return f"item {item.fqn!r} lies outside its shard"
        if item.kind == JSON:
            continue
        wrong = _tensor(item)
        if wrong:
            return f"item {item.fqn!r}: {wrong}"
        if shapes.setdefault(item.fqn, (item.dtype, item.shape)) != (item.dtype, item.shape):
            return f"item {item.fqn!r} has two types or shapes"
        elements[item.fqn] = elements.get(item.fqn, 0) + math.prod(item.chunk_sizes)
    partial = next((name for name, (_, shape) in shapes.items() if elements[name] != math.prod(shape)), None)
    return "" if partial is None else f"item {partial!r}: its pieces do not make its shape"


def _tensor(item: Item) -> str:
    size = ELEMENT_BYTES.get(item.dtype)
    if item.kind != TENSOR or size is None:
        return f"unknown kind or dtype: {item.kind!r}, {item.dtype!r}"
    dimensions = (item.shape, item.chunk_offsets, item.chunk_sizes)
    if {len(one) for one in dimensions} != {len(item.shape)} or len(item.shape) > DIMENSIONS_MAX:
        return "shape, chunk_offsets and chunk_sizes are not of one number of dimensions"
    if not all(map(_numbers, dimensions)) or math.prod(item.shape) > NUMBER_MAX:
        return f"shape {item.shape} is none"
    if any(at + long > whole for whole, at, long in zip(*dimensions, strict=True)):
        return "its piece lies outside its shape"
    if math.prod(item.chunk_sizes) * size != item.length:
        return f"{item.length} bytes do not make a {item.chunk_sizes} tensor of {item.dtype}"
    return ""


def _planner(text: str) -> str:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        return f"the planner is no JSON: {error}"
    if not isinstance(found, dict):
        return "the planner is no JSON object"
    odd = next((name for name, path in found.items() if not _is_path(path)), None)
    return "" if odd is None else f"the planner's path of {odd[:100]!r} is no list of a name, and names and places"


def _is_path(path: object) -> bool:
    return isinstance(path, list) and isinstance(next(iter(path), None), str) and all(map(_is_part, path))


def _is_part(part: object) -> bool:
    """A name in a dictionary, or a place in a list."""
    return isinstance(part, str) or (type(part) is int and 0 <= part <= PATH_NUMBER_MAX)


def _numbers(values: Iterable[int]) -> bool:
    return all(0 <= value <= NUMBER_MAX for value in values)
