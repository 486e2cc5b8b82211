"""Distribution: images come from registries and archives and go there.

It works on a ``plugin_sdk.daemon.Daemon`` alone, so the daemon's transfer plugin and the client library (against a
containerd that has no transfer service) do the same. Sources: OCI distribution specification 1.1, OCI image
specification 1.1, Docker registry API v2.
"""
