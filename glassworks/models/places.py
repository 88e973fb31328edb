"""Where each kind of site lies in a model: at which part, and on which side of it.

One table for all families; what a family lacks is told from its row. This module must not know what is done there.
"""

from dataclasses import dataclass

from torch import nn

from glassworks.errors import NotFound
from glassworks.models.architectures import Anatomy
from glassworks.sites import KINDS, Site

SIDES = ("stream", "input", "inside", "norm", "output", "logits")
"""How a value is reached, in the order in which one module meets them: `stream` is an input that the block's skip
connection shares, `inside` is offered by our attention function, `norm` is computed beside a norm."""

PLACES: dict[str, tuple[str, str]] = {
    "embed": ("layer", "input"),
    "resid_pre": ("layer", "input"),
    "attn_in": ("attention", "input"),
    "q": ("attention", "inside"),
    "k": ("attention", "inside"),
    "v": ("attention", "inside"),
    "pattern": ("attention", "inside"),
    "attn_heads": ("output", "input"),
    "attn_out": ("attn_post_norm|attention", "output"),
    "resid_mid": ("mlp_norm|mlp", "stream"),
    "mlp_in_pregain": ("mlp_norm", "norm"),
    "mlp_in": ("mlp", "input"),
    "mlp_neurons": ("down", "input"),
    "mlp_out": ("mlp_post_norm|mlp", "output"),
    "resid_post": ("layer", "output"),
    "attn_norm_scale": ("attn_norm", "norm"),
    "attn_post_norm_scale": ("attn_post_norm", "norm"),
    "mlp_norm_scale": ("mlp_norm", "norm"),
    "mlp_post_norm_scale": ("mlp_post_norm", "norm"),
    "final_norm_scale": ("final_norm", "norm"),
    "logits": ("hf", "logits"),
}
"""Kind -> the part (the first that the family has) and the side."""


@dataclass(frozen=True)
class Place:
    """A module and the side of it where a site lies."""

    module: nn.Module
    side: str


def locate(anatomy: Anatomy, site: Site) -> Place:
    """Find a site in a model.

    Raises:
        NotFound: the family lacks this kind, or the layer does not exist.
    """
    if site.layer is not None and site.layer >= len(anatomy.layers):
        raise NotFound(f"There is no site {site}: the model has layers 0 to {len(anatomy.layers) - 1}.")
    place = _find(anatomy, site)
    if place is None:
        raise NotFound(
            f"A {anatomy.row.family} model like this has no site {site}: {_reason(anatomy, site.kind)}; "
            f"it has {', '.join(kinds(anatomy))}."
        )
    return place


def kinds(anatomy: Anatomy) -> list[str]:
    """Kinds of sites that a model has, in the order of `sites.KINDS`."""
    return [name for name in KINDS if _find(anatomy, Site(name, 0 if KINDS[name].layered else None))]


def _find(anatomy: Anatomy, site: Site) -> Place | None:
    if site.kind == "resid_mid" and anatomy.parallel:
        return None
    names, side = PLACES[site.kind]
    parts = (anatomy.part(name, site.layer) for name in names.split("|"))
    module = next((part for part in parts if part is not None), None)
    return None if module is None else Place(module, side)


def _reason(anatomy: Anatomy, kind: str) -> str:
    if kind == "resid_mid":
        return "its attention and MLP both read resid_pre"
    if kind == "mlp_in_pregain":
        return "its MLP reads the residual stream without a norm before it (mlp_in is resid_mid)"
    return f"it has no norm {'after' if 'post' in kind else 'before'} its {'MLP' if 'mlp' in kind else 'attention'}"
