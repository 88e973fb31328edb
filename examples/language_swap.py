"""From English to French: turn the language of an answer, and see what the model then says.

    python examples/language_swap.py

The same from the command line:

    glassworks steer 'The opposite of "hot" is "' --by 2 --most 16 --last 1 \
        --like 'Le contraire de "petit" est "' --like 'Le contraire de "vieux" est "' \
        --unlike 'The opposite of "small" is "' --unlike 'The opposite of "old" is "'

The language is found on half of the words and tried on the other half. What comes out is French; but it is the French
word for what was asked, and not for its opposite. That is what this model says by itself where a French sentence asks
about an English word: its opposites are learned in each language apart, and which of them is looked up is decided by
word and sentence together. A larger model that shares its opposites among languages would say the opposite.
"""

import glassworks as gw
from glassworks import smallworld
from glassworks.edits import add_features, contrast

ENGLISH, FRENCH = 'The opposite of "{}" is "', 'Le contraire de "{}" est "'
AMOUNT, WIDTHS = 2.0, (20, 18, 18, 18)


def words() -> list[tuple[str, str, str, str]]:
    """Every word with its opposite, in English and in French."""
    found = []
    for pair in smallworld.antonyms():
        english, french = pair.words["english"], pair.words["french"]
        found += [(english[side], english[1 - side], french[side], french[1 - side]) for side in (0, 1)]
    return found


def answers(model: gw.Model, prompts: list[str]) -> list[str]:
    """The likeliest next word of each prompt, edits included."""
    return [model.predict(each, k=1)[0].token.strip() for each in prompts]


def main() -> None:
    """Print what the model answers in three ways."""
    model, scope = gw.load_model("smallworld"), gw.load_scope("smallworld")
    every = words()
    shown, tried = every[::4] + every[1::4], every[2::4] + every[3::4]
    like = [FRENCH.format(french) for _, _, french, _ in shown]
    unlike = [ENGLISH.format(english) for english, *_ in shown]
    found = contrast(model, scope, like, unlike, most=16, last=1)
    print(f"{len(found.refs)} features tell French prompts from English ones. On {len(tried)} other words:\n")

    prompts = [ENGLISH.format(english) for english, *_ in tried]
    mixed = answers(model, [FRENCH.format(english) for english, *_ in tried])
    clean = answers(model, prompts)
    with model.edit(add_features(found.refs, [AMOUNT * each for each in found.change], scope)):
        edited = answers(model, prompts)

    french = {french for _, _, french, _ in every}
    columns = {"clean": clean, "edited": edited, "mixed prompt": mixed}
    print(f"{'':<14}{'opposite, English':>20}{'any French word':>18}{'the word, French':>18}{'opposite, French':>18}")
    for name, said in columns.items():
        checks = [
            [word == row[1] for word, row in zip(said, tried, strict=True)],
            [word in french for word in said],
            [word == row[2] for word, row in zip(said, tried, strict=True)],
            [word == row[3] for word, row in zip(said, tried, strict=True)],
        ]
        print(
            f"{name:<14}" + "".join(f"{sum(each) / len(each):>{w}.0%}" for each, w in zip(checks, WIDTHS, strict=True))
        )
    same = sum(one == other for one, other in zip(edited, mixed, strict=True)) / len(tried)
    print(f"\nThe edited model says what the clean one says to the mixed prompt in {same:.0%} of the cases.")


if __name__ == "__main__":
    main()
