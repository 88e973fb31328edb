"""Edits as JSON come back the same, and only for the model and scope that they were made for."""

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from glassworks.coders import Scope
from glassworks.edits import (
    EFFECTS,
    OPERATIONS,
    UNITS,
    Direction,
    Edit,
    FeatureRef,
    Features,
    Gate,
    Heads,
    Neurons,
    Source,
    Span,
    Whole,
    ablate,
    add_vector,
    clamp,
    difference,
    load_edits,
    patch,
    read_edit,
    save_edits,
    set_features,
)
from glassworks.errors import BadArtefact, BadInput, GlassworksError, NotFound
from glassworks.models import Model
from glassworks.sites import Site

from .conftest import random_coder

NUMBERS = st.floats(-1e6, 1e6).filter(lambda number: not number or abs(number) > 1e-9)  # squares do not vanish
SITES = st.builds(Site, st.sampled_from(["resid_post", "mlp_out", "attn_heads"]), st.integers(0, 3))
NAMES = st.sampled_from(["mlp_in.0", "mlp_in.1"])
REFS = st.builds(FeatureRef, NAMES, st.none() | st.integers(-9, 9), st.integers(0, 49))
INDICES = st.lists(st.integers(0, 40), min_size=1, max_size=5, unique=True).map(tuple)
TARGETS = st.one_of(
    st.lists(REFS, min_size=1, max_size=5, unique=True).map(lambda refs: Features(tuple(refs))),
    st.builds(Direction, SITES, st.lists(NUMBERS.filter(bool), min_size=1, max_size=5).map(tuple)),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=1, max_size=4, unique=True).map(
        lambda heads: Heads(tuple(heads))
    ),
    st.builds(Neurons, st.integers(0, 3), INDICES),
    st.builds(Whole, SITES),
)
PLAIN_PLACES = st.one_of(
    st.sampled_from(["all", "prompt", "generated", "last"]),
    st.lists(st.integers(-9, 9), min_size=1, max_size=4, unique=True).map(tuple),
    st.tuples(st.integers(0, 9), st.integers(1, 9)).map(lambda pair: Span(pair[0], pair[0] + pair[1])),
)
PLACES = PLAIN_PLACES | st.builds(Gate, REFS, NUMBERS, PLAIN_PLACES)
SOURCES = st.builds(Source, st.text(min_size=1) | INDICES, st.none() | PLAIN_PLACES)


@st.composite
def edits(draw: Any) -> Edit:
    """Any edit that can be made."""
    target, operation = draw(TARGETS), draw(st.sampled_from(sorted(OPERATIONS)))
    row = OPERATIONS[operation]
    if type(target) not in row.targets:
        operation, row = "scale", OPERATIONS["scale"]
    units = [each for each, kinds in UNITS.items() if type(target) in kinds] if row.scaled else ["absolute"]
    unit = draw(st.sampled_from(units))
    amounts = () if operation == "patch" else tuple(sorted(draw(st.tuples(*[NUMBERS] * row.arity))))
    if operation == "clamp" and draw(st.booleans()):
        amounts = draw(st.sampled_from([(-torch.inf, amounts[1]), (amounts[0], torch.inf)]))
    return Edit(
        operation=operation,
        target=target,
        amounts=amounts,
        where=draw(PLACES),
        unit=unit,
        sizes=() if unit == "absolute" else (draw(st.floats(0.01, 100)),),
        error=draw(st.sampled_from(["keep", "drop"] if isinstance(target, Features) else ["keep"])),
        effect=draw(st.sampled_from(sorted(EFFECTS))),
        source=draw(SOURCES) if operation == "patch" else None,
        coders={name: CODERS[name] for name in CODERS},
    )


CODERS = {f"mlp_in.{layer}": random_coder(f"mlp_in.{layer}", f"mlp_out.{layer}", "jumprelu") for layer in (0, 1)}


@pytest.mark.filterwarnings("ignore:Do not use the `random` module")  # beartype does, to choose what it checks
@given(edits())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_json_gives_the_same_edit_back(edit: Edit) -> None:
    scope = Scope("random", "random", dict(CODERS), ["mlp_in.0", "mlp_in.1"])
    again = read_edit(json.loads(json.dumps(edit.plain(), allow_nan=False)), scope)
    assert again == edit
    assert hash(again) == hash(edit)
    assert not difference(again, edit)
    assert str(again) == str(edit)


@given(st.dictionaries(st.sampled_from(["operation", "target", "where", "amounts", "sizes", "source", "unit"]),
                       st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner:
                                    st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5)))  # fmt: skip
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_other_json_is_refused_in_one_sentence(change: dict) -> None:
    plain = set_features(Neurons(0, (1, 2)), 1.0).plain() | change
    with suppress(GlassworksError):
        read_edit(plain)


@pytest.fixture
def stack(scope: Scope) -> list[Edit]:
    gate = Gate(FeatureRef("mlp_in.0", None, 6), 0.5)
    return [
        ablate([FeatureRef("mlp_in.1", None, 4), FeatureRef("mlp_in.1", -1, 5)], scope, effect="attention"),
        add_vector("resid_post.1", torch.randn(24), gate, scope=scope),
        clamp(Heads(((0, 1),)), high=0.5),
        patch("resid_mid.0", [1, 2, 3], where=[0], source_where=[-1]),
    ]


def test_edits_are_saved_and_act_the_same(llama: Model, tokens: Tensor, scope: Scope, stack: list[Edit],
                                          tmp_path: Path) -> None:  # fmt: skip
    save_edits(tmp_path / "edits.json", stack, llama, scope)
    again = load_edits(tmp_path / "edits.json", llama, scope)
    assert again == stack
    logits = []
    for each in (stack, again):
        with llama.edit(*each):
            logits.append(llama.capture(tokens, ["logits"])["logits"])
    assert torch.equal(*logits)


def test_files_for_something_else_are_refused(llama: Model, scope: Scope, stack: list[Edit], tmp_path: Path) -> None:
    file = tmp_path / "edits.json"
    save_edits(file, stack, llama, scope)
    other = Model(llama.hf, name="owner/other")
    with pytest.raises(BadInput, match="are for the model llama, not for owner/other"):
        load_edits(file, other, scope)
    with pytest.raises(BadInput, match="for the scope random, not for elsewhere"):
        load_edits(file, llama, replace(scope, name="elsewhere"))
    with pytest.raises(BadInput, match="pass the scope"):
        load_edits(file, llama)
    with pytest.raises(NotFound, match="no coder"):
        load_edits(file, llama, Scope("random", "random", {"mlp_in.0": scope["mlp_in.0"]}, []))
    plain = json.loads(file.read_text())
    plain["edits"][1]["target"]["direction"].pop()
    file.write_text(json.dumps(plain))
    with pytest.raises(BadInput, match="width 23; resid_post"):
        load_edits(file, llama, scope)
    for text, message in (("[]", "holds no edits"), ("{", "not readable JSON"), ('{"kind": "graph"}', "no edits"),
                          ('{"kind": "edits", "edits": [], "schema": 9}', "newer version")):  # fmt: skip
        file.write_text(text)
        with pytest.raises(BadArtefact, match=message):
            load_edits(file, llama, scope)
    with pytest.raises(BadInput, match="need their scope"):
        save_edits(file, stack, llama)
    with pytest.raises(NotFound, match="layers 0 to 2"):
        save_edits(tmp_path / "none.json", [ablate("resid_post.7")], llama)
    assert not (tmp_path / "none.json").exists()


def test_a_folder_or_an_alias_is_the_same_model(llama: Model, tmp_path: Path) -> None:
    edit = ablate("resid_post.1")
    for saved, opened in (("smallworld", "smallworld-m"), ("/a/tiny", "b/tiny"), ("owner/tiny", "/tmp/tiny")):
        save_edits(tmp_path / "edits.json", [edit], Model(llama.hf, name=saved))
        assert load_edits(tmp_path / "edits.json", Model(llama.hf, name=opened)) == [edit]


def test_differences_are_named(scope: Scope) -> None:
    one = ablate(FeatureRef("mlp_in.1", None, 4), scope)
    other = set_features(FeatureRef("mlp_in.1", None, 4), 2.0, scope, where="last")
    assert difference(one, other) == {"operation": ("zero", "set"), "amounts": ([], [2.0]), "where": ("all", "last")}
    assert one != other
    assert one == ablate("mlp_in.1/4", scope)


@pytest.mark.parametrize(("edit", "words"), [
    (lambda s: clamp(Neurons(1, (3, 5)), low=0.5, where="prompt"),
     "clamp neurons 3, 5 of layer 1 to 0.5 .. inf in the prompt"),
    (lambda s: ablate("resid_post.1", where=[0, -1], effect="direct"),
     "ablate resid_post.1 at positions 0, -1, direct effect only"),
    (lambda s: patch(Heads(((0, 1), (2, 3))), "Some text", where="last"),
     "patch heads 0.1, 2.3 from 'Some text' at the prompt's last token"),
    (lambda s: set_features("mlp_in.1/4", 2, s, error="drop", where=Gate(FeatureRef("mlp_in.0", None, 6), 0.5)),
     "set 1 feature (mlp_in.1/4) to 2 where mlp_in.0/6 is above 0.5, the coder's error dropped"),
])  # fmt: skip
def test_edits_read_well(scope: Scope, edit: Any, words: str) -> None:
    assert str(edit(scope)) == words
