import pytest

from tests.serving import serve

# The suites are no test modules: without this their failed assertions would not show values.
for noun in ("content", "snapshots", "diff", "layers", "daemon"):
    pytest.register_assert_rewrite(f"plugin_sdk.conformance.{noun}")

__all__ = ["serve"]
