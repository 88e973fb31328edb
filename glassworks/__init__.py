"""Glassworks opens language models: find features, trace circuits, change them, carry them into another model.

The names below are the whole API. They load on first use, so `import glassworks` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glassworks.circuits import Budget as Budget
    from glassworks.circuits import Graph as Graph
    from glassworks.circuits import explain_attention as explain_attention
    from glassworks.circuits import load_graph as load_graph
    from glassworks.circuits import trace as trace
    from glassworks.coders import Coder as Coder
    from glassworks.coders import Scope as Scope
    from glassworks.coders import load_scope as load_scope
    from glassworks.edits import ablate as ablate
    from glassworks.edits import add_vector as add_vector
    from glassworks.edits import scale_features as scale_features
    from glassworks.edits import set_features as set_features
    from glassworks.errors import GlassworksError as GlassworksError
    from glassworks.harvest import load_store as load_store
    from glassworks.models import Model as Model
    from glassworks.models import load_model as load_model
    from glassworks.notebook import show as show
    from glassworks.notebook import write_html as write_html
    from glassworks.sites import Site as Site

__version__ = "0.1.0"

_HOMES = {
    "Budget": "circuits",
    "Coder": "coders",
    "GlassworksError": "errors",
    "Graph": "circuits",
    "Model": "models",
    "Scope": "coders",
    "Site": "sites",
    "ablate": "edits",
    "add_vector": "edits",
    "explain_attention": "circuits",
    "load_graph": "circuits",
    "load_model": "models",
    "load_scope": "coders",
    "load_store": "harvest",
    "scale_features": "edits",
    "set_features": "edits",
    "show": "notebook",
    "trace": "circuits",
    "write_html": "notebook",
}

__all__ = ["__version__", *sorted(_HOMES)]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'glassworks' has no attribute {name!r}")
    return getattr(import_module(f"glassworks.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
