"""gRPC's messages out of the pieces in which they come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from plugin_sdk import errors
from plugin_sdk.wire.http2.frames import PREFIX, PREFIX_SIZE

MAX_MESSAGE = 16 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes of one message."""

    receive: int = MAX_MESSAGE
    send: int = MAX_MESSAGE

    def check_received(self, size: int) -> None:
        """Raises ResourceExhausted."""
        if size > self.receive:
            raise errors.ResourceExhausted(f"grpc: received message larger than max ({size} vs. {self.receive})")

    def check_sent(self, size: int) -> None:
        """Raises ResourceExhausted."""
        if size > self.send:
            raise errors.ResourceExhausted(f"grpc: trying to send message larger than max ({size} vs. {self.send})")


def is_whole(data: bytes) -> bool:
    """Whether this is exactly one message that is not compressed."""
    return len(data) >= PREFIX_SIZE and PREFIX.unpack_from(data) == (0, len(data) - PREFIX_SIZE)


class Assembler:
    """Pieces are joined once, when a message is complete."""

    __slots__ = ("_have", "_limits", "_need", "_pieces")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._pieces: list[bytes] = []
        self._have, self._need = 0, PREFIX_SIZE

    @property
    def is_within(self) -> bool:
        """Whether a message has begun and is not complete."""
        return self._have > 0

    def feed(self, data: bytes) -> Sequence[bytes]:
        """The messages that are complete now. Raises Unimplemented for a compressed one, ResourceExhausted for one
        that is too large."""
        self._pieces.append(data)
        self._have += len(data)
        if self._have < self._need:
            return ()
        data = b"".join(self._pieces)
        found, at = self._split(data)
        rest = data[at:]
        self._pieces, self._have = [rest] if rest else [], len(rest)
        return found

    def _split(self, data: bytes) -> tuple[list[bytes], int]:
        """Messages, and where what is left begins."""
        found: list[bytes] = []
        at = 0
        while len(data) - at >= PREFIX_SIZE:
            begin = at + PREFIX_SIZE
            size = self._length(data, at)
            if len(data) - begin < size:
                self._need = PREFIX_SIZE + size
                return found, at
            at = begin + size
            found.append(data[begin:at])
        self._need = PREFIX_SIZE
        return found, at

    def _length(self, data: bytes, at: int) -> int:
        compressed, size = PREFIX.unpack_from(data, at)
        if compressed:
            raise errors.Unimplemented("compressed messages are not served here")
        self._limits.check_received(size)
        return int(size)
