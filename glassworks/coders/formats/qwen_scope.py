"""Qwen-Scope: one pickle a layer, `layer{N}.sae.pt`, with TopK autoencoders of the residual stream after the block."""

import re
from functools import partial
from typing import Any

from glassworks.coders.activations import TopK
from glassworks.coders.coder import Coder
from glassworks.coders.entries import Entry, Provenance, width_word
from glassworks.coders.files import Files
from glassworks.coders.formats.reading import builder, coder_of, laid_out, read_tensors
from glassworks.errors import BadArtefact
from glassworks.sites import Site

PATTERN = r"layer(?P<layer>\d+)\.sae\.pt"
REPOSITORY = r"SAE-Res-(?P<model>.+?)-W(?P<width>\d+)K-L0_(?P<k>\d+)"
LAYOUT = {"w_enc": "W_enc", "b_enc": "b_enc", "w_dec": "W_dec.T", "b_dec": "b_dec"}
FORMULA = "a = topk(relu(W_enc x + b_enc)); y = W_dec a + b_dec"


def recognise(files: Files) -> bool:
    """Whether a file is named `layer{N}.sae.pt`."""
    return bool(files.matching(PATTERN))


def entries(files: Files) -> list[Entry]:
    """One entry a layer; width and k are in the root's `config.json` or in the repository's name."""
    facts = _facts(files)
    return [_entry(files, name, int(match["layer"]), facts) for name, match in files.matching(PATTERN)]


def _facts(files: Files) -> dict[str, Any]:
    named = re.search(REPOSITORY, files.home)
    facts = files.json("config.json") if "config.json" in files else {}
    if named:
        facts = {
            "base_model": f"Qwen/{named['model']}",
            "k": int(named["k"]),
            "d_sae": int(named["width"]) * 1024,
        } | facts
    if "k" not in facts:
        raise BadArtefact(
            f"{files.reference} does not say k: keep its config.json, or a name like SAE-Res-X-W32K-L0_50."
        )
    return facts


def _entry(files: Files, name: str, layer: int, facts: dict[str, Any]) -> Entry:
    site, k = Site("resid_post", layer), int(facts["k"])
    label = name.removesuffix(".sae.pt")
    return Entry(
        name=label,
        reads=(site,),
        writes=(site,),
        kind="sae",
        width=width_word(int(facts["d_sae"])) if facts.get("d_sae") else "",
        l0=str(k),
        target=float(k),
        tags=(),
        bytes=files.size((name,)),
        files=(name,),
        provenance=Provenance("qwen_scope", FORMULA, str(facts.get("base_model") or "")),
        build=builder(files, label, (name,), partial(_build, files, name, site, k)),
    )


def _build(files: Files, name: str, site: Site, k: int) -> Coder:
    return coder_of(site, site, laid_out(read_tensors(files, name), LAYOUT), TopK(k))
