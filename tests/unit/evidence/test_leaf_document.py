"""The list of what may be logged is what the code logs, and says of each type what it is."""

from consumers.evidence.leaf_document import DOCUMENT, MEANINGS, document
from consumers.evidence.leaves import CaseLeaf, discover


def test_the_kept_document_is_what_the_types_give() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == document(), "run `python -m consumers.evidence.leaf_document`"


def test_every_type_and_no_other_has_a_meaning() -> None:
    names = {leaf.KIND if issubclass(leaf, CaseLeaf) else leaf.TYPE for leaf in discover()}
    assert names == set(MEANINGS)
    assert "text of a fixed pattern" not in document()
