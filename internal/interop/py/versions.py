"""Says, with its exit status, whether this environment holds the versions of the given requirements files.

    python versions.py requirements.txt...

Standard library only: it runs before anything is installed.
"""

import sys
from importlib import metadata


def mismatches(path):
    with open(path) as f:
        lines = [line.split("#")[0].strip() for line in f]
    for line in filter(None, lines):
        name, _, want = line.partition("==")
        try:
            have = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield f"{name}: not installed"
            continue
        if want and have.split("+")[0] != want:
            yield f"{name}: {have}, want {want}"


if __name__ == "__main__":
    found = [m for path in sys.argv[1:] for m in mismatches(path)]
    for m in found:
        print(m, file=sys.stderr)
    sys.exit(1 if found else 0)
