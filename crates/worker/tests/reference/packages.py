"""Packages of the Python package index, downloaded and not run."""

import contextlib
import os
import subprocess
import sys
import tempfile


def pip(*arguments, **environment):
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    subprocess.run(command, check=True, env=dict(os.environ, PIP_ROOT_USER_ACTION="ignore", **environment))


def source(folder, requirement, build_backend):
    """The archive of a source distribution.

    `requirement` is `name==version --hash=…`, and `build_backend` the module that the package names as its own.
    """
    name, version = requirement.split(" ")[0].split("==")
    name = name.replace("-", "_")
    # pip asks a source distribution's build system for its metadata, even if it only downloads. This answers without
    # running anything of the package: a download needs the name and the version only.
    *package, module = build_backend.split(".")
    backend = folder.joinpath("backend", *package)
    backend.mkdir(parents=True)
    if package:
        (backend / "__init__.py").touch()
    (backend / f"{module}.py").write_text(
        "import os\n"
        "def prepare_metadata_for_build_wheel(folder, settings=None):\n"
        f"    name, version = {name!r}, {version!r}\n"
        "    os.makedirs(f'{folder}/{name}-{version}.dist-info')\n"
        "    with open(f'{folder}/{name}-{version}.dist-info/METADATA', 'w') as file:\n"
        "        file.write(f'Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n')\n"
        "    return f'{name}-{version}.dist-info'\n"
        "def build_wheel(*_, **__):\n"
        "    raise SystemExit('nothing is built here')\n"
    )
    with requirements(requirement) as file:
        pip(
            "download", "--no-deps", "--no-binary=:all:", "--no-build-isolation", "--dest", str(folder / "sdist"),
            "-r", file, PYTHONPATH=str(folder / "backend"),
        )
    [archive] = (folder / "sdist").iterdir()
    return archive


def wheel(folder, requirement):
    """The archive of a wheel for every machine. `requirement` is `name==version --hash=…`."""
    target = folder / requirement.split(" ")[0]
    with requirements(requirement) as file:
        pip("download", "--no-deps", "--only-binary=:all:", "--dest", str(target), "-r", file)
    [archive] = target.iterdir()
    return archive


@contextlib.contextmanager
def requirements(line):
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(line + "\n")
        file.flush()
        yield file.name
