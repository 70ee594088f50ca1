"""The ports' contracts are written where they are declared."""

from __future__ import annotations

import inspect
import re
from types import FunctionType

import pytest

from pipelines import errors, ports
from schemas.codec import DecodeError

PORTS = [kind for kind in vars(ports).values() if getattr(kind, "_is_protocol", False)]
METHODS = [(port, method) for port in PORTS for method in vars(port).values() if inspect.isfunction(method)]
METHODS = [(port, method) for port, method in METHODS if not method.__name__.startswith("_")]


@pytest.mark.parametrize(("port", "method"), METHODS, ids=lambda item: getattr(item, "__name__", ""))
def test_each_method_of_a_port_says_what_it_takes_and_which_errors_it_raises(port: type, method: FunctionType) -> None:
    """Every parameter is under `Args:`, and what is under `Raises:` is an error of the tree, or the codec's."""
    text = inspect.getdoc(method) or ""
    args = re.findall(r"^    \**(\w+): ", text.partition("Args:\n")[2].partition("\n\n")[0], re.MULTILINE)
    raised = re.findall(r"^    (\w+): ", text.partition("Raises:\n")[2], re.MULTILINE)
    assert args == list(inspect.signature(method).parameters)[1:], f"{port.__name__}.{method.__name__}"
    known = {name for name, kind in vars(errors).items() if isinstance(kind, type)} | {DecodeError.__name__}
    assert set(raised) <= known, f"{port.__name__}.{method.__name__}"
