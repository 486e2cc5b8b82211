"""Archives of images: an OCI layout, or what ``docker save`` writes, as a stream."""
