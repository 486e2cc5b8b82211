from tests.serving import serve, server_kind

__all__ = ["serve", "server_kind"]
