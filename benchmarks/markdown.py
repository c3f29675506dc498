"""Markdown tables, and the generated blocks of pages that are written by hand: what stands between two markers."""

from __future__ import annotations

import re
from pathlib import Path

from copo_algos.errors import UserError

LEFT = ("algorithm", "scene", "setting", "meaning")  # columns of words


def table(header: list[str], rows: list[list[str]]) -> str:
    """A table; all columns but those of words are aligned to the right."""
    aligned = ["---" if column in LEFT else "---:" for column in header]
    return "".join(f"| {' | '.join(row)} |\n" for row in [header, aligned, *rows])


def markers(name: str) -> tuple[str, str]:
    """The comments around the block of that name."""
    return f"<!-- {name}:begin -->", f"<!-- {name}:end -->"


def block_names(page: str) -> list[str]:
    """Names of the blocks that begin in a page, on lines of their own."""
    return re.findall(r"^<!-- (\S+):begin -->$", page, re.M)


def replace_block(page: str, name: str, text: str, path: Path) -> str:
    """The page with `text` as its block of that name.

    Args:
        page: Markdown.
        path: where it is, for the message.

    Raises:
        UserError: it has no such block.
    """
    begin, end = markers(name)
    before, has_begin, rest = page.partition(begin)
    _, has_end, after = rest.partition(end)
    if not (has_begin and has_end):
        raise UserError(f"{path} has no place for the {name}: put {begin} and {end} on lines of their own where it is")
    return f"{before}{begin}\n{text.strip()}\n{end}{after}"


def read_page(path: Path) -> str:
    """The text of a Markdown file.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}; give an existing Markdown file") from error


def write_page(path: Path, text: str) -> None:
    """The file whole, or as it was."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
