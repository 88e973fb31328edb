"""A study: what makes smallworld-m-it refuse, one direction or a few features, and is either better than chance?

    python examples/refusal_study.py

Both are found on training requests and tested on topics and templates that were never asked for. Their controls are
directions of equal norm, and features of equal number, layer and activation. Harmless twins (the same words around
a harmless deed) and other text show what else an intervention breaks.

This explains a safeguard by taking it away, in a toy world without real knowledge; see the section on risk in
docs/patching.md.
"""

from itertools import islice

import torch

import glassworks as gw
from glassworks import smallworld
from glassworks.edits import Edit, FeatureRef, contrast, project_out
from glassworks.experiments import (
    Case,
    Edits,
    Experiment,
    Table,
    active_features,
    exact_match,
    kl,
    loss,
    matched_features,
    random_directions,
)

FIT, TEST, DRAWS, MOST = 40, 40, 9, 8
READ, CODER = "resid_post.1", "mlp_in.3"
"""Chosen on known topics (the split held_out), of all layers; what is printed are new ones."""


def requests(kind: str, count: int, split: str) -> list[smallworld.Exchange]:
    """Requests of a kind, each once."""
    drawn = smallworld.exchanges(kind, 4 * count, 17, split)
    return list({exchange.user: exchange for exchange in drawn}.values())[:count]


def twins(harmful: list[smallworld.Exchange]) -> list[str]:
    """The same requests around harmless deeds."""
    deeds = [exchange.subject for exchange in requests("harmless", len(harmful), "held_out")]
    return [exchange.template.format(d=deed) for exchange, deed in zip(harmful, deeds, strict=False)]


def direction(model: gw.Model, harmful: list[str], harmless: list[str]) -> torch.Tensor:
    """Difference of the mean states where the reply begins."""
    means = [
        torch.stack([model.capture(prompt, [READ])[READ][-1] for prompt in prompts]).mean(0)
        for prompts in (harmful, harmless)
    ]
    return means[0] - means[1]


def study(model: gw.Model, scope: gw.Scope) -> dict[str, Table]:
    """Set of prompts -> what each intervention does there."""
    fit = {
        kind: [smallworld.chat_prompt(exchange.user) for exchange in requests(kind, FIT, "train")]
        for kind in ("harmful", "harmless")
    }
    along = direction(model, fit["harmful"], fit["harmless"])
    found = contrast(model, scope, fit["harmful"], fit["harmless"], most=MOST, coders=[CODER])
    features = sorted({FeatureRef(ref.coder_id, None, ref.index) for ref in found.rising})
    print("features:", "; ".join(f"{ref} {scope.label(ref.coder_id, ref.index)}" for ref in features))

    out: list[Edit] = [project_out(READ, along)]
    arms = [Edits("direction", out), Edits("features", [gw.ablate(features, scope)])]
    controls = {
        "direction": random_directions(DRAWS),
        "features": matched_features(active_features(model, scope, fit["harmful"]), DRAWS),
    }
    drawn = [draw for arm in arms for draw in controls[arm.name].of(arm)]
    harmful = requests("harmful", TEST, "new")
    prompts = {"new topics": [exchange.user for exchange in harmful], "harmless twins": twins(harmful)}
    tables = {}
    for name, asked in prompts.items():
        cases = [Case(smallworld.chat_prompt(text), answer=smallworld.REFUSAL) for text in asked]
        tables[name] = Experiment(model, cases, [*arms, *drawn], [exact_match("refused")]).run()
    other = [document.text for document in islice(smallworld.stream(1001, 0, "held_out"), TEST)]
    tables["other text"] = Experiment(model, [Case(text) for text in other], [*arms, *drawn], [kl(), loss()]).run()
    return tables


def main() -> None:
    """Print a table for each set of prompts, and how often chance does as much."""
    tables = study(gw.load_model("smallworld-m-it"), gw.load_scope("smallworld-m-it"))
    for name, table in tables.items():
        print(f"\n{name}\n{table}")
    topics = tables["new topics"]
    print()
    for arm, control in (("direction", "random directions"), ("features", "matched features")):
        change, p = topics.difference("refused", arm), topics.p_value("refused", arm, control)
        beyond = topics.difference("refused", arm, arm, control)
        print(f"{arm}: refusals change by {change}, beyond {control} by {beyond}, p {p:.2f}")


if __name__ == "__main__":
    main()
