"""Tables of measurements inside the README, each between two markers."""

from __future__ import annotations

from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def update_readme(name: str, table: str) -> None:
    """Put a table into README.md, as `write_block` does."""
    README.write_text(write_block(README.read_text(encoding="utf-8"), name, table), encoding="utf-8")


def write_block(readme_text: str, name: str, table: str) -> str:
    """Replace what stands between `<!-- name:begin -->` and `<!-- name:end -->`, and return the whole text.

    Raises:
        ValueError: a marker is missing, occurs twice, or the end stands before the beginning.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    for marker in (begin, end):
        if readme_text.count(marker) != 1:
            found = readme_text.count(marker)
            raise ValueError(f"readme_text: found {marker} {found} times, expected once; put it on a line of its own")
    before, rest = readme_text.split(begin)
    if end not in rest:
        raise ValueError(f"readme_text: {end} stands before {begin}, expected it after; exchange the two lines")
    return f"{before}{begin}\n{table.strip()}\n{end}{rest.split(end)[1]}"
