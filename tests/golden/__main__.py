"""Writes the golden files of notices anew; look at `git diff` before you commit them."""

from tests.golden import FOLDER, files

if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    written = dict(files())
    for old in FOLDER.glob("*.txt"):
        if old.name not in written:
            old.unlink()
    for name, content in written.items():
        (FOLDER / name).write_text(content, encoding="utf-8")
    print(f"{len(written)} files in {FOLDER}; see: git diff {FOLDER}")
