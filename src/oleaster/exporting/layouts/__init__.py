"""The output formats, by the names that `--output_format` takes."""

from oleaster.exporting.layouts.genai import Genai
from oleaster.exporting.layouts.gguf import Gguf
from oleaster.exporting.layouts.hub import Hub
from oleaster.exporting.layouts.layout import Layout

LAYOUTS: dict[str, Layout] = {"genai": Genai(), "hf": Hub(), "gguf": Gguf()}


def layout_of(kind: str) -> Layout | None:
    """The layout that wrote an artifact of this kind."""
    return next((layout for layout in LAYOUTS.values() if layout.kind == kind), None)
