from plugin_sdk.scope import Scope
from plugin_sdk.wire import version


def test_version_needs_no_namespace(serve):
    assert version.Proxy(serve(version.Servicer("1.2.3", "abc")), Scope("")).version() == ("1.2.3", "abc")
