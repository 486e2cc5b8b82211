"""Errors that say what they are about: a message names the image and the layer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from plugin_sdk import errors


@contextlib.contextmanager
def about(*subjects: str) -> Iterator[None]:
    """An error from within says in front what it is about, unless it does already."""
    try:
        yield
    except errors.Canceled:
        raise
    except errors.Error as err:
        missing = [subject for subject in subjects if subject not in err.message]
        if not missing:
            raise
        raise type(err)(": ".join([*missing, err.message])) from err


def again(err: BaseException) -> BaseException:
    """The same error for another thread, which gives it a trace of its own."""
    return type(err)(err.message) if isinstance(err, errors.Error) else err
