"""What ``import corten`` offers and does not import before it is asked for."""

from __future__ import annotations

from corten.client import Client, Tls, Version
from corten.containers import Container
from corten.content import Blob
from corten.following import Following, follow
from corten.images import Usage
from corten.metrics import Metrics
from corten.specs import SpecOptions
from corten.tasks import Process, Task
from corten.transfers import Challenge, Credentials, Progress, Registry, RegistryOptions

__all__ = [
    "Blob",
    "Challenge",
    "Client",
    "Container",
    "Credentials",
    "Following",
    "Metrics",
    "Process",
    "Progress",
    "Registry",
    "RegistryOptions",
    "SpecOptions",
    "Task",
    "Tls",
    "Usage",
    "Version",
    "follow",
]
