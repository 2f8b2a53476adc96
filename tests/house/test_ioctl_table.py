"""docs/ioctls.md says what the code does."""

from iommud.ops.table import ROWS
from tools.ioctl_table import DOCUMENT, GREW, SINCE, clients_of, document


def test_the_table_is_up_to_date() -> None:
    assert DOCUMENT.read_text() == document(), "make docs"


def test_every_row_is_there() -> None:
    text = document()
    for row in ROWS:
        assert f"\n| {row.name} |" in text
    assert {row.name for row in ROWS} == set(SINCE)
    assert set(GREW) <= set(SINCE)


def test_what_is_built_is_judged_by_a_client() -> None:
    assert [row.name for row in ROWS if not clients_of(f"IOMMU_{row.name}")] == []
