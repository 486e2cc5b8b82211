"""gRPC over HTTP/2 on asyncio alone: the daemon's edge, ten times leaner a call than grpc.aio."""
