"""The tree is the architecture: who imports whom, function-local imports included."""

import ast
import functools
import sys
from pathlib import Path

from kernel import hookspecs, plugins, spawner

PROJECT = Path(__file__).resolve().parent.parent
PACKAGES = ("plugin_sdk", "kernel", "plugins_builtin", "proxy_plugins", "corten")
MAY_IMPORT = {
    "plugin_sdk": {"plugin_sdk"},
    "kernel": {"kernel", "plugin_sdk"},
    "plugins_builtin": {"plugins_builtin", "plugin_sdk"},
    "proxy_plugins": {"proxy_plugins", "plugin_sdk"},
    "corten": {"corten", "plugin_sdk"},
}
FOR_GRPC = {"plugin_sdk/wire/transport.py"}
FOR_HPACK = {"plugin_sdk/wire/http2/compression.py"}
FOR_IMPORTLIB = {"kernel/plugins.py"}
USES_DISTRIBUTION = ("plugin_sdk/distribution/", "plugin_sdk/conformance/", "plugins_builtin/transfer/", "corten/")
FOR_RE2 = "plugin_sdk/filters.py"
SAYS_NOTHING = {"util", "utils", "helper", "helpers", "common", "misc", "lib", "base", "core", "tools"}
LONGEST = 700  # lines; half of all files have fewer than 200
GENERATED = "corten/aio.py"

FILES = sorted(
    str(path.relative_to(PROJECT))
    for package in PACKAGES
    for path in (PROJECT / package).rglob("*.py")
    if not path.name.endswith(("_pb2.py", "_pb2_grpc.py"))
)
MODULES = {path.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for path in FILES}


@functools.cache
def parse(path):
    return ast.parse((PROJECT / path).read_text(), path)


def module_of(path):
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def named(node):
    """What an import statement names: ``from a import b`` may mean the module ``a.b`` or a name in ``a``."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    assert node.level == 0, "imports are absolute"
    full = [f"{node.module}.{alias.name}" for alias in node.names]
    return [name if name in MODULES else node.module for name in full]


def checks_types_only(node):
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def imports(path, types=True, top=False):
    """Modules that a file imports; ``types`` with those for annotations, ``top`` without those within functions."""

    def visit(node):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from named(node)
        if (checks_types_only(node) and not types) or (top and isinstance(node, (ast.FunctionDef, ast.ClassDef))):
            return
        for child in ast.iter_child_nodes(node):
            yield from visit(child)

    return set(visit(parse(path)))


def package_of(name):
    return name.partition(".")[0]


def is_contract(path):
    """A module of plugin_sdk itself, not of its wire, stubs or suites."""
    return path.startswith("plugin_sdk/") and path.count("/") == 1


def hooks_in(path):
    decorated = [node for node in ast.walk(parse(path)) if isinstance(node, ast.FunctionDef) and node.decorator_list]
    return [node.name for node in decorated if any("hookimpl" in ast.unparse(mark) for mark in node.decorator_list)]


REGISTERING = [path for path in FILES if hooks_in(path)]


def offenders(paths, wrong):
    """What is wrong, by file."""
    return {path: found for path in paths if (found := wrong(path))}


def beginning(*prefixes):
    return [path for path in FILES if path.startswith(prefixes)]


def foreign(path, **what):
    return {name for name in imports(path, **what) if package_of(name) not in sys.stdlib_module_names}


def test_there_is_something_to_test():
    assert set(PACKAGES) == {package_of(name) for name in MODULES}
    assert len(REGISTERING) >= 2


def test_a_package_imports_itself_and_the_hub():
    def wrong(path):
        return {package_of(name) for name in imports(path)} & set(PACKAGES) - MAY_IMPORT[package_of(module_of(path))]

    assert offenders(FILES, wrong) == {}


def test_a_plugin_does_not_import_another():
    def wrong(path):
        package, folder = path.split("/")[:2]
        return {name for name in imports(path) if name.split(".")[0] == package and name.split(".")[1] != folder}

    assert offenders([p for p in beginning("plugins_builtin/", "proxy_plugins/") if p.count("/") > 1], wrong) == {}


def test_a_service_imports_no_other():
    def wrong(path):
        return {name for name in imports(path) if name.startswith("kernel.services.")}

    assert offenders(beginning("kernel/services/"), wrong) == {}


def test_there_is_no_import_circle():
    graph = {module_of(path): imports(path, types=False) & MODULES for path in FILES}
    done = set()

    def visit(name, above):
        assert name not in above, f"a circle: {' imports '.join((*above[above.index(name) :], name))}"
        if name not in done:
            for other in sorted(graph[name] - {name}):
                visit(other, (*above, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())


def test_a_contract_needs_the_standard_library_and_pluggy():
    def wrong(path):
        allowed = {"plugin_sdk", "pluggy"} | ({"re2"} if path == FOR_RE2 else set())
        return {package_of(name) for name in foreign(path)} - allowed

    assert offenders(filter(is_contract, FILES), wrong) == {}


def test_what_loads_re2_loads_it_when_a_pattern_comes():
    assert "re2" not in foreign(FOR_RE2, top=True)


def test_what_the_spawner_loads_needs_the_standard_library_and_each_other():
    loadable = {module_of(path) for path in spawner.LOADABLE}
    assert offenders(beginning(*spawner.LOADABLE), lambda path: foreign(path) - loadable) == {}


def test_grpc_is_imported_by_the_transport_only():
    users = {path for path in FILES if "grpc" in map(package_of, imports(path))}
    assert users <= FOR_GRPC


def test_hpack_is_imported_by_the_edge_only():
    users = {path for path in FILES if "hpack" in map(package_of, imports(path))}
    assert users == FOR_HPACK


def test_distribution_is_imported_where_images_are_copied():
    """So that no other plugin loads an HTTP library, and the daemon none at its start."""

    def wrong(path):
        return {name for name in imports(path) if name.startswith("plugin_sdk.distribution")}

    others = [path for path in FILES if not path.startswith(USES_DISTRIBUTION)]
    assert offenders(others, wrong) == {}
    http = {path for path in FILES if "urllib3" in map(package_of, imports(path))}
    assert all(path.startswith("plugin_sdk/distribution/") for path in http)


def test_importlib_is_used_in_one_file():
    assert {path for path in FILES if "importlib" in map(package_of, imports(path))} == FOR_IMPORTLIB


def test_a_module_that_registers_imports_the_plugin_contract_only():
    assert offenders(REGISTERING, lambda path: foreign(path, top=True) - {"plugin_sdk.plugin"}) == {}


def test_a_hook_that_is_implemented_is_one_that_is_specified():
    assert offenders(REGISTERING, lambda path: set(hooks_in(path)) - set(hookspecs.KINDS)) == {}


def test_every_registering_built_in_is_loaded():
    built_in = {module_of(path) for path in REGISTERING if path.startswith("plugins_builtin/")}
    assert built_in == set(plugins.BUILTINS)


def test_every_specified_hook_names_its_kind():
    functions = [node for node in parse("kernel/hookspecs.py").body if isinstance(node, ast.FunctionDef)]
    assert {node.name for node in functions if node.decorator_list} == set(hookspecs.KINDS)


def test_a_package_itself_is_empty():
    """But for the client library, whose public names are those of ``import corten``."""

    def wrong(path):
        return [ast.unparse(node) for node in parse(path).body if not isinstance(node, ast.Expr)]

    assert offenders([p for p in FILES if p.endswith("__init__.py") and p != "corten/__init__.py"], wrong) == {}


def test_a_module_has_a_name_that_says_something():
    assert offenders(FILES, lambda path: SAYS_NOTHING & set(module_of(path).split("."))) == {}


def test_a_module_says_what_it_is():
    assert offenders(FILES, lambda path: not path.endswith("__init__.py") and not ast.get_docstring(parse(path))) == {}


def test_a_file_can_be_read_at_one_sitting():
    """The suites are lists."""
    files = [path for path in FILES if not path.startswith(("plugin_sdk/conformance/", GENERATED))]
    lines = {path: len((PROJECT / path).read_text().splitlines()) for path in files}
    assert {path: count for path, count in lines.items() if count > LONGEST} == {}
