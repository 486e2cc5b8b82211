from tests.serving import connect, serve, server_kind

__all__ = ["connect", "serve", "server_kind"]
