"""What these tests show takes no more than a page."""

from pathlib import Path

import pytest

MOST = 60


@pytest.mark.parametrize("path", sorted(Path(__file__).parent.glob("*.py")), ids=lambda p: p.name)
def test_a_file_here_has_at_most_sixty_lines(path):
    assert len(path.read_text().splitlines()) <= MOST
