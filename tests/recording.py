"""An object that stands in for a contract: it answers what it was told and records what it was asked."""

from __future__ import annotations

import functools
from typing import Any


class Recorder:
    """``Recorder(get=Image(...))``: each method answers its value, or raises it when it is an exception."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        if name not in self.answers:
            raise AttributeError(name)
        return functools.partial(self._called, name)

    def _called(self, name: str, *args: Any, **kwargs: Any) -> Any:
        self.calls.append((name, args, kwargs))
        answer = self.answers[name]
        if isinstance(answer, Exception):
            raise answer
        return answer

    @property
    def last(self) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
        return self.calls[-1]
