from tests.repositories import make, mirror, served
from tests.serving import connect, serve, server_kind

__all__ = ["connect", "make", "mirror", "serve", "served", "server_kind"]
