"""Pages of the site made of the notebooks: cells, and the outputs that they were built with."""

import json
import re
from base64 import b64decode
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
_BUILT = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))


def on_config(config: Any) -> None:
    """Put the course into the navigation, after the first page."""
    pages = ["course/index.md", *(f"course/{path.stem}.md" for path in _BUILT)]
    config.nav.insert(1, {"Course": pages})


def on_files(files: Any, config: Any) -> None:
    """Add a page for each notebook, its pictures, the map of the course, and the explorer."""

    def add(name: str, content: str | bytes) -> None:
        files.append(File.generated(config, f"course/{name}", content=content))

    index = (NOTEBOOKS / "README.md").read_text()
    add("index.md", index.replace(".ipynb)", ".md)"))
    for path in NOTEBOOKS.glob("*.html"):
        add(path.name, path.read_text())
    for path in _BUILT:
        text, pictures = page(json.loads(path.read_text()), path.stem)
        add(f"{path.stem}.md", text)
        for name, content in pictures.items():
            add(name, content)


def page(notebook: Any, stem: str) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, and its pictures as PNG files by name."""
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if png := data.get("image/png"):
                name = f"{stem}-{len(pictures) + 1}.png"
                pictures[name] = b64decode(png)
                alt = output["metadata"]["image/png"]["alt"]
                parts.append(f"![{re.sub(r'[][]', '', alt)}]({name})")
            else:
                printed = output.get("text", data.get("text/plain", ""))
                parts.append(f"```text\n{''.join(printed).rstrip()}\n```")
    return "\n\n".join(parts), pictures
