"""`python -m benchmarks.scene_sheets` writes docs/scenes."""

from __future__ import annotations

from benchmarks.scene_sheets.pages import FOLDER, pages

if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
