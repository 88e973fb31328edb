"""Queries and keys from a layer's input: what is read agrees with what the model computes, in every family."""

import pytest
import torch

from tests.circuits.tiny import CONFIGS, PROMPT, random_model
from tests.models.conftest import FAMILIES


@pytest.mark.parametrize("family", [*CONFIGS, *(f"models/{name}" for name in FAMILIES)])
def test_queries_and_keys_are_those_of_the_model(family):
    if "/" in family:
        from glassworks.models import Model

        torch.manual_seed(3)
        hf = FAMILIES[family.partition("/")[2]]()
        with torch.no_grad():
            for weight in hf.parameters():
                weight.add_(0.3 * torch.randn_like(weight))
        model = Model(hf, name=family)
    else:
        model = random_model(family)
    tokens = [each % 50 for each in PROMPT]
    for layer in range(model.n_layers):
        sites = {name: f"{name}.{layer}" for name in ("attn_in", "q", "k")}
        seen = {name: model.capture(tokens, [site])[site] for name, site in sites.items()}
        scorer = model.scorer(layer, tokens)
        for position in (0, 3, len(tokens) - 1):
            for projection, name in ((scorer.query, "q"), (scorer.key, "k")):
                for head in range(len(projection.weight)):
                    x = seen["attn_in"][position]
                    rows, constant = projection.frozen(x, head)
                    found = scorer.rotated(rows @ x + constant, position)
                    torch.testing.assert_close(found, seen[name][position, head], atol=2e-5, rtol=1e-4)
