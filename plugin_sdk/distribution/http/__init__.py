"""How a registry is spoken to: hosts, connections, authentication, blobs in both directions."""
