"""Positions of a text, as edits name them: counted from the start, or from the end where negative."""

from collections.abc import Sequence

from glassworks.errors import BadInput


def resolved(positions: Sequence[int] | None, tokens: int) -> list[int]:
    """Turn named positions into indices of a text.

    Args:
        positions: each once; -1 is the last token. None is all of them.
        tokens: how many tokens the text has.

    Raises:
        BadInput: a position lies outside the text.
    """
    if positions is None:
        return list(range(tokens))
    outside = [each for each in positions if not -tokens <= each < tokens]
    if outside:
        raise BadInput(f"An edit names the position {outside[0]}; the text has {tokens} tokens, 0 to {tokens - 1}.")
    return [each % tokens for each in positions]
