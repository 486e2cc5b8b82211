"""containerd's API: .proto files and the stubs generated from them by scripts/generate_api.py."""
