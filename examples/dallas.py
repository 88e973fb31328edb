"""From Dallas through Texas to Austin: find the path, break it, and send it to another capital.

    python examples/dallas.py

Everything happens in the real model: the graph says which features carry the state, edits show that they do.
"""

from random import Random

import glassworks as gw
from glassworks.studies import Cities, Swaps

PROMPT = "The capital of the state containing Dallas is"
DRAWS = 100


def probability(model: gw.Model, token: str) -> float:
    """Probability of a token after the prompt, edits included."""
    return next((each.probability for each in model.predict(PROMPT, k=1000) if each.token.strip() == token), 0.0)


def main() -> None:
    """Print what the graph says and what the edits do."""
    model, scope = gw.load_model("smallworld"), gw.load_scope("smallworld")

    graph = gw.trace(model, scope, PROMPT)
    print(graph)
    for path in graph.paths(5):
        print("  ", path)

    texas = graph.find("Texas")
    clean = probability(model, "Austin")
    with model.edit(gw.ablate(texas)):
        ablated = probability(model, "Austin")
    print(f"\nTexas: {len(texas)} features. Without them Austin falls from {clean:.3f} to {ablated:.5f}.")

    random, unchanged = Random(0), 0
    for _ in range(DRAWS):
        with model.edit(gw.ablate(graph.matched(texas, random))):
            unchanged += model.predict(PROMPT, k=1)[0].token.strip() == "Austin"
    print(
        f"As many random active features, matched by layer and activation: unchanged in {unchanged} of {DRAWS} draws."
    )

    cities = Cities.of(model)
    swaps = Swaps.of(cities, scope)
    with model.edit(swaps.edit(cities.place("Texas"), cities.place("California"))):
        print(f"\nWith California's features: {model.predict(PROMPT, k=1)[0].token.strip()}.")
    print(f"All held-out cities, at most 8 features per layer and position: {swaps.flips():.1%} flip to exactly the")
    print(f"other state's capital; random features: {swaps.flips(control=True):.1%}.")


if __name__ == "__main__":
    main()
