"""Targets in words, as the command line and the explorer's page take them.

    cold                        a token that may come next, exactly one of the vocabulary; `#17` is a token by its id
    cold - hot                  the difference of two tokens' logits
    cold@5                      what comes after token 5; negative numbers count from the end, of differences too
    likely, likely@5            the likeliest tokens there
    next:3                      the three tokens that follow, each after the one before
    mlp_in.2/17@5               a feature at a token: coder, number, position
    direction:FILE:SITE@5       a direction of the stream, as a file (.npy or .safetensors) holds it, read at a site

This module must not know graphs, nor which files may be read: a function that it is given reads them.
"""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from glassworks.circuits.asked import Direction, Feature, Likely, Logit, Token
from glassworks.circuits.outcomes import Continuation, Outcome
from glassworks.errors import BadArtefact, BadInput, NotFound
from glassworks.models import Model

AT = r"(?:@(?P<position>-?\d+))?"
FEATURE = re.compile(r"(?P<coder>[\w./-]+)/(?P<index>\d+)" + AT)
LIKELY = re.compile(r"likely" + AT)
NEXT = re.compile(r"next:(?P<count>\d+)")
DIRECTION = re.compile(r"direction:(?P<file>.+):(?P<site>[\w.]+)" + AT)
TOKEN = re.compile(r"(?P<first>.+?)(?: - (?P<second>.+?))?" + AT, re.DOTALL)


def read_direction(path: str) -> Tensor:
    """Read a direction from a file: .npy, or .safetensors with one tensor.

    Raises:
        NotFound: there is no such file.
        BadArtefact: it holds something else than one row of numbers.
    """
    file = Path(path)
    if not file.is_file():
        raise NotFound(f"There is no file {file}; a direction is a .npy or .safetensors file with one vector.")
    try:
        tensors = list(load_file(file).values()) if file.suffix == ".safetensors" else [torch.from_numpy(np.load(file))]
    except (ValueError, TypeError, OSError, EOFError, SafetensorError) as error:
        raise BadArtefact(f"The file {file} cannot be read as numbers ({error}); write it again.") from error
    if len(tensors) != 1 or tensors[0].squeeze().ndim != 1:
        shapes = ", ".join(str(tuple(each.shape)) for each in tensors)
        raise BadArtefact(f"The file {file} holds {shapes or 'nothing'}; a direction is one row of numbers.")
    return tensors[0].squeeze().float()


def parse(text: str, model: Model, read: Callable[[str], Tensor] = read_direction) -> Outcome:
    """Read one target from words; a text that is a token is that token, whatever else it could mean.

    Args:
        text: see this module.
        model: knows the tokens.
        read: finds the vector of a direction by the name of its file.

    Raises:
        NotFound: it is none of what this module lists.
    """
    token = _token(text, model)
    if token is not None:
        return Logit(token)
    if found := LIKELY.fullmatch(text):
        return Likely(_position(found))
    if found := NEXT.fullmatch(text):
        return Continuation(int(found["count"]))
    if found := DIRECTION.fullmatch(text):
        return Direction(read(found["file"]), found["site"], _position(found), Path(found["file"]).stem)
    if found := FEATURE.fullmatch(text):
        return Feature(found["coder"], int(found["index"]), _position(found))
    found = TOKEN.fullmatch(text)
    if found is None:
        raise BadInput("A target is empty; name a token, or see `glassworks trace --help`.")
    second = None if found["second"] is None else _must(found["second"], model)
    return Logit(_must(found["first"], model), second, _position(found))


def _position(found: re.Match[str]) -> int:
    return -1 if found["position"] is None else int(found["position"])


def _token(text: str, model: Model) -> Token | None:
    """The token that shows a text, `#17` by its id; None where there is none."""
    try:
        return model.token_id(text)
    except (NotFound, BadInput):
        return int(text[1:]) if re.fullmatch(r"#\d+", text) else None


def _must(text: str, model: Model) -> Token:
    token = _token(text, model)
    return model.token_id(text) if token is None else token
