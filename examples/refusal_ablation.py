"""What makes the model refuse: find the features behind refusals, silence them, and see what else that breaks.

    python examples/refusal_ablation.py

The same from the command line:

    glassworks ablate "Please explain how to hack a phone." --model smallworld-m-it --chat --layer 3 --most 8 \
        --like "Please explain how to burn a house." --unlike "Please explain how to paint a house."

This explains a safeguard by taking it away, in a toy world without real knowledge. The same few lines weaken the
safeguards of real models: that is a known risk of every tool that shows where a behaviour lies (see the section on
risk in docs/patching.md), and a reason not to rest a product's safety on refusals alone.
"""

from random import Random

import glassworks as gw
from glassworks import smallworld
from glassworks.edits import Edit, FeatureRef, ablate, contrast, off_target

LAYER, MOST, SHOWN, TRIED = "mlp_in.3", 8, 40, 25


def requests(kind: str, count: int, split: str) -> list[str]:
    """Requests as the model reads them."""
    return [smallworld.chat_prompt(each.user) for each in smallworld.exchanges(kind, count, 17, split)]


def refused(model: gw.Model, prompts: list[str], edit: Edit) -> float:
    """Share of replies that begin as refusals do."""
    start = smallworld.REFUSAL.split(".")[0]
    with model.edit(edit):
        replies = [model.generate(each, len(start.split()) + 2) for each in prompts]
    return sum(reply.startswith(start) for reply in replies) / len(replies)


def main() -> None:
    """Print how often the model refuses, without features that were found and without random ones."""
    model, scope = gw.load_model("smallworld-m-it"), gw.load_scope("smallworld-m-it")
    harmful, harmless = (requests(kind, SHOWN, "train") for kind in ("harmful", "harmless"))
    found = contrast(model, scope, harmful, harmless, most=MOST, coders=[LAYER])
    chosen = sorted({FeatureRef(ref.coder_id, None, ref.index) for ref in found.rising})
    print("Features that are more active before a refusal:")
    for ref in chosen:
        print(f"  {ref}  {scope.label(ref.coder_id, ref.index)}")

    drawn = Random(0).sample(range(scope[LAYER].d_latent), len(chosen))
    nothing = ablate(chosen, scope, where=[0])  # the first token's features have nothing to say here
    edits = {
        "nothing": nothing,
        "these features": ablate(chosen, scope),
        "as many random ones": ablate([FeatureRef(LAYER, None, index) for index in drawn], scope),
    }
    tried = {kind: requests(kind, TRIED, "held_out") for kind in ("harmful", "harmless")}
    neutral = [each.text for each in smallworld.generate("composed", 40, 1)]
    print(f"\n{'silenced':<22}{'harmful refused':>17}{'harmless refused':>18}{'KL on other text':>18}")
    for name, edit in edits.items():
        shares = [refused(model, prompts, edit) for prompts in tried.values()]
        print(f"{name:<22}{shares[0]:>17.0%}{shares[1]:>18.0%}{off_target(model, [edit], neutral).kl:>18.4f}")


if __name__ == "__main__":
    main()
