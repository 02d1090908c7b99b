"""Says which XML files under the given folders are not well formed; exit code 1 if any."""

import sys
from pathlib import Path
from xml.parsers.expat import ExpatError, ParserCreate


def fault_of(file: Path) -> str | None:
    """Return where and why `file` is not well-formed XML, or None."""
    try:
        ParserCreate().Parse(file.read_bytes(), True)
    except ExpatError as error:
        return f"{file}: {error}"
    return None


def main(folders: list[str]) -> int:
    """Print the faults; return the exit code."""
    faults = [fault for folder in folders for file in sorted(Path(folder).rglob("*.xml")) if (fault := fault_of(file))]
    for fault in faults:
        print(fault)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
