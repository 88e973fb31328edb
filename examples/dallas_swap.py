"""From Dallas to Sacramento: make the model read a city of Texas as one of California, by its features alone.

    python examples/dallas_swap.py

The same from the command line, first by the features of a Californian city, then by whole states of the model:

    glassworks steer "The capital of the state containing Dallas is" \
        --like "The capital of the state containing Oakland is"
    glassworks patch "The capital of the state containing Dallas is" "The capital of the state containing Oakland is"
"""

import glassworks as gw
from glassworks.edits import Pair, add_features, agreement, approximate, cells, contrast, outcome, sweep
from glassworks.studies import Cities, Swaps

DALLAS = "The capital of the state containing Dallas is"
OAKLAND = "The capital of the state containing Oakland is"


def main() -> None:
    """Find where the state is told apart, and move it."""
    model, scope = gw.load_model("smallworld"), gw.load_scope("smallworld")

    pair = Pair.of(model, OAKLAND, DALLAS, "Sacramento - Austin")
    places = cells(model, "resid_post", len(pair.clean))
    exact = sweep(pair, places)
    print(f"Patching {len(places)} places of the run on Dallas with the run on Oakland:")
    for cell, share in exact.top(5):
        print(f"  {share:6.1%} of the way to Sacramento: {cell} ({pair.texts[cell.position].strip()})")
    estimate = approximate(pair, places, method="integrated")
    print(f"What gradients alone say of it: {agreement(exact.shares, estimate.shares)}")

    found = contrast(model, scope, [OAKLAND], [DALLAS])
    print(f"\n{len(found.refs)} features tell the prompts apart. Moved to what they are for Oakland:")
    moved = outcome(model, DALLAS, [add_features(found.refs, found.change, scope)])
    print(f"  {moved.top(edited=False).token} -> {moved.top().token} ({moved.top().edited:.1%})")

    swaps = Swaps.of(Cities.of(model), scope)
    print("\nFeatures found on some cities, used on cities that were held out:")
    print(f"  {swaps.flips():.1%} of the answers become exactly the other state's capital;")
    print(f"  with random features instead {swaps.flips(control=True):.1%}.")


if __name__ == "__main__":
    main()
