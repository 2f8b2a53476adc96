"""docs/ioctls.md says what the code does."""

from iommud.ops.dispatch import HANDLERS
from iommud.uapi.table import ROWS
from tests.house.ioctl_table import DOCUMENT, SINCE, clients_of, document


def test_the_table_is_up_to_date() -> None:
    assert DOCUMENT.read_text() == document(), "make docs"


def test_every_row_is_there_and_every_handler_is_of_a_row() -> None:
    text = document()
    for row in ROWS:
        assert f"\n| {row.name} |" in text
    assert set(HANDLERS) == {row.name for row in ROWS}
    assert set(HANDLERS) == set(SINCE)


def test_what_is_built_is_judged_by_a_client() -> None:
    unjudged = [name for name in HANDLERS if not clients_of(f"IOMMU_{name}")]
    assert unjudged == []
