"""Is the committed wire schema what its .proto files say? `python -m tests.support.check_generated`

Runs the command of the Makefile's `proto` target with another output folder, and compares bytes.
"""

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "proto"


def protoc_command(out: Path) -> list[str]:
    """The Makefile's command, writing into `out` instead of proto/."""
    makefile = (ROOT / "Makefile").read_text()
    line = next(line for line in makefile.splitlines() if "grpc_tools.protoc" in line)
    _, _, arguments = line.partition("-m grpc_tools.protoc")
    options, files = list[str](), list[str]()
    for word in shlex.split(arguments):
        if "*" in word:
            files += sorted(str(path.relative_to(SOURCES)) for path in SOURCES.glob(word))
        else:
            options.append(word.removesuffix(".") + str(out) if "_out=" in word else word)
    return [sys.executable, "-m", "grpc_tools.protoc", *options, *files]


def differences() -> list[str]:
    """Generated files that are missing, left over, or differ from the committed ones."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        subprocess.run(protoc_command(out), cwd=SOURCES, env=os.environ | {"PATH": path}, check=True)
        made = _generated(out)
    committed = _generated(SOURCES)
    return sorted(str(file) for file in made.keys() | committed.keys() if made.get(file) != committed.get(file))


def _generated(folder: Path) -> dict[Path, bytes]:
    files = (file for file in folder.rglob("*_pb2*") if file.suffix in (".py", ".pyi"))
    return {file.relative_to(folder): file.read_bytes() for file in files}


def main() -> None:
    found = differences()
    for file in found:
        print(f"proto/{file} is not what the .proto files generate")
    if found:
        sys.exit("Run `make proto` and commit the result; if you did, compare the versions of grpcio-tools.")


if __name__ == "__main__":
    main()
