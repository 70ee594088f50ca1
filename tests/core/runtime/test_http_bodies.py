"""The bodies of HTTP: each comes through JSON whole; a renamed or mistyped field is refused by its name."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from typing import Any

import pytest

from pipelines.ports import GrantReply
from schemas import http_bodies
from services.http.bodies import BodyError, from_json, plain, to_json

KINDS: tuple[Any, ...] = (
    *(kind for kind in vars(http_bodies).values() if getattr(kind, "__module__", "") == http_bodies.__name__),
    GrantReply,
)
PLAIN: dict[Any, Any] = {str: "text", int: 7, float: 1.5, bool: True}


def _sample(kind: Any, *, full: bool) -> Any:  # noqa: ANN401 - of any type
    """A value of this type: with everything set, or with as much empty as can be."""
    origin, of = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        return _sample(of[0], full=True) if full else None
    if origin is tuple and of[-1] is Ellipsis:
        return (_sample(of[0], full=full),) * 2 if full else ()
    if origin is tuple:
        return tuple(_sample(each, full=full) for each in of)
    if origin is dict:
        return {"gpt": _sample(of[1], full=full)} if full else {}
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return typing.cast("Any", kind)(
            **{one.name: _sample(hints[one.name], full=full) for one in dataclasses.fields(kind)}
        )
    return PLAIN[kind]


def test_every_body_is_a_frozen_and_slotted_record() -> None:
    """The module holds nothing else, and not few of them."""
    assert len(KINDS) > 25
    assert all(kind.__dataclass_params__.frozen and "__slots__" in vars(kind) for kind in KINDS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("full", [True, False], ids=["full", "empty"])
def test_a_body_comes_through_json_whole(kind: Any, full: bool) -> None:  # noqa: ANN401 - a record's type
    """Also in a dictionary, as `/status` answers it, and with a field that this version does not know."""
    record = _sample(kind, full=full)
    assert from_json(kind, to_json(record)) == record
    assert from_json(dict[str, kind], to_json({"gpt": record})) == {"gpt": record}
    assert from_json(kind, json.dumps(plain(record) | {"of_a_later_version": [1]})) == record


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_renamed_or_mistyped_field_is_refused_by_its_name(kind: Any) -> None:  # noqa: ANN401 - a record's type
    """Each field of each body: a rename at one end only is an error at the other, never a silent None."""
    body = plain(_sample(kind, full=True))
    for one in dataclasses.fields(kind):
        value = {key: each for key, each in body.items() if key != one.name}
        has_default = one.default is not dataclasses.MISSING or one.default_factory is not dataclasses.MISSING
        if not has_default:
            with pytest.raises(BodyError, match=f"^{one.name}: it is missing$"):
                from_json(kind, json.dumps(value | {f"{one.name}_renamed": body[one.name]}))
        for wrong in (["x"], {"x": []}) if isinstance(body[one.name], str | int | float) else ("wrong", 3.5):
            with pytest.raises(BodyError, match=f"^{one.name}"):
                from_json(kind, json.dumps(value | {one.name: wrong}))


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**30])
def test_a_number_that_no_record_can_hold_is_refused_where_it_arrives(number: int) -> None:
    """Else it would be refused when a lease record is written, long after its sender has gone."""
    body = {"run": "gpt", "launch": "l", "committed_step": number, "node": "n0"}
    with pytest.raises(BodyError, match=r"^committed_step: a number of 64 bits at most is wanted$"):
        from_json(http_bodies.GrantBody, json.dumps(body))
    from_json(http_bodies.GrantBody, json.dumps(body | {"committed_step": 2**63 - 1}))


def test_a_number_is_no_text_and_a_text_no_number() -> None:
    """Nothing is converted on the way in."""
    with pytest.raises(BodyError, match=r"^refused: a str is wanted$"):
        from_json(http_bodies.MoveAnswer, b'{"refused": 0}')
    with pytest.raises(BodyError, match=r"^begins: a bool is wanted$"):
        from_json(http_bodies.GrantBody, b'{"run": "gpt", "launch": "l", "committed_step": 1, "begins": 1}')
    with pytest.raises(BodyError, match="no JSON"):
        from_json(http_bodies.FailoverAnswer, b"<html>")
    with pytest.raises(BodyError, match=r"^the body: an object is wanted$"):
        from_json(http_bodies.FailoverAnswer, b"[]")
