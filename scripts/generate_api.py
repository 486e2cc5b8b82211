"""Regenerates the stubs of plugin_sdk/api from its .proto files: ``python scripts/generate_api.py``.

With ``--check`` nothing is written; the exit status is 1 and the stale files are named when the committed stubs differ.
Needs grpcio-tools, whose version decides which protobuf runtime the stubs ask for at least.
"""

from __future__ import annotations

import argparse
import site
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
API = Path("plugin_sdk/api")


def protos(root: Path = ROOT) -> list[Path]:
    return sorted(path.relative_to(root) for path in (root / API).rglob("*.proto"))


def compile_into(target: Path) -> None:
    """Writes ``_pb2.py``, ``_pb2.pyi`` and the packages' ``__init__.py`` below ``target``."""
    import grpc_tools  # type: ignore[import-untyped]

    wellknown = Path(grpc_tools.__file__).parent / "_proto"
    includes = [ROOT, wellknown, *(path for path in map(Path, site.getsitepackages()) if path.is_dir())]
    command = [sys.executable, "-m", "grpc_tools.protoc", *(f"-I{path}" for path in includes)]
    command += [f"--python_out={target}", f"--pyi_out={target}", *map(str, protos())]
    subprocess.run(command, cwd=ROOT, check=True)
    for stub in (target / API).rglob("*_pb2.pyi"):
        stub.write_text(stub.read_text().replace("_Mapping]", "_Mapping[str, object]]"))  # mypy --strict wants it
    for proto in protos():
        for folder in proto.parents:
            if folder.is_relative_to(API) and folder != API:
                (target / folder / "__init__.py").touch()


def generated(root: Path) -> dict[Path, bytes]:
    """The stubs by path, each with its serialized descriptor: the rest differs between versions of the generator."""
    paths = [*(root / API).rglob("*_pb2.py"), *(root / API).rglob("*_pb2.pyi")]
    return {path.relative_to(root): b"".join(_descriptors(path)) for path in paths}


def _descriptors(path: Path) -> list[bytes]:
    return [line for line in path.read_bytes().splitlines() if b"AddSerializedFile" in line]


def stale() -> list[Path]:
    """Stubs that are missing, out of date, or left over."""
    with tempfile.TemporaryDirectory() as folder:
        compile_into(Path(folder))
        wanted, present = generated(Path(folder)), generated(ROOT)
    return sorted(path for path in wanted.keys() | present.keys() if wanted.get(path) != present.get(path))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    if parser.parse_args().check:
        paths = stale()
        print(*(f"{path}: stale" for path in paths), sep="\n", end="\n" if paths else "")
        return 1 if paths else 0
    for path in generated(ROOT):
        (ROOT / path).unlink()
    compile_into(ROOT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
