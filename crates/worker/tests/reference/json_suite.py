#!/usr/bin/env python3
"""Downloads the JSON Schema Test Suite, which the source distribution of the Python package jsonschema carries.

    python3 json_suite.py FOLDER

`cargo xtask test` runs this. It writes the suite of one draft to FOLDER/draft2020-12. Nothing of the package is run, and
nothing of it is committed.
"""

import pathlib
import sys
import tarfile
import tempfile

import packages

PACKAGE = "jsonschema==4.26.0 --hash=sha256:0c26707e2efad8aa1bfc5b7ce170f3fccc2e4918ff85989ba9ffa9facb2be326"
DRAFT = "draft2020-12"
INSIDE = f"json/tests/{DRAFT}/"


def main(folder):
    target = folder / DRAFT
    target.mkdir()
    with tempfile.TemporaryDirectory() as temporary:
        archive = packages.source(pathlib.Path(temporary), PACKAGE, "hatchling.build")
        with tarfile.open(archive) as tar:
            for member in tar:
                _, _, name = member.name.partition(INSIDE)
                if member.isfile() and name.endswith(".json") and "/" not in name:
                    (target / name).write_bytes(tar.extractfile(member).read())
    if len(list(target.iterdir())) < 40:
        raise SystemExit(f"{PACKAGE}: the suite is not where it was")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
