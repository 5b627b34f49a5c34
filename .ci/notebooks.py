"""Execute the notebooks of docs/notebooks, from the repository's root, and write them with their outputs.

They are kept as Python alone: outputs go stale, and pictures swell a repository. This makes the `.ipynb` files.
"""

import os
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Execute every notebook; an error in a cell ends it."""
    os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"  # of tqdm in a kernel without widgets
    made = ROOT / "out" / "notebooks"
    made.mkdir(parents=True, exist_ok=True)
    for path in sorted((ROOT / "docs" / "notebooks").glob("*.py")):
        notebook = jupytext.read(path)
        client = NotebookClient(
            notebook, kernel_name="python3", timeout=300, resources={"metadata": {"path": str(ROOT)}}
        )
        client.execute()
        nbformat.write(notebook, made / f"{path.stem}.ipynb")


if __name__ == "__main__":
    main()
