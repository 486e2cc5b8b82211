"""What a command line is for: which daemon, which namespace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import corten

if TYPE_CHECKING:
    from corten.client import Client

COMPLETING = "_CORTEN_COMPLETE"
"""Set by a shell's script when a line is to be completed."""


@dataclass(frozen=True, slots=True)
class Target:
    address: str
    namespace: str

    def connect(self) -> Client:
        return corten.connect(self.address, self.namespace)
