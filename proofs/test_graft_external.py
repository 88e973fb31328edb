"""A circuit carried between two public models that were trained apart, with other vocabularies: what comes of it?

One model of children's stories is tuned to a behaviour (`tim.py`), gets transcoders from our own trainer, and the
circuit of the behaviour is cut from graphs; the other model gets it as a graft, and the whole protocol is run. Sizes
were fixed on stories that the protocol does not use. What is asserted is that the behaviour was there to be carried and
that the report is whole; whether it was carried is what the report says. Models and coders are kept in a folder
(`GLASSWORKS_PROOFS`, else in the folder for temporary files), so a run that was stopped goes on.
"""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

import glassworks as gw
from glassworks import transfer
from glassworks.circuits import Budget, Circuit, cut, load_circuit, traces
from glassworks.coders import Scope, load_scope, save_scope
from glassworks.edits.patching import Pair, cells, sweep
from glassworks.harvest import Reading, Rows, harvest, load_store
from glassworks.train import Trainer, fit, grid, layouts
from glassworks.transfer import Behaviour, Fitting, Judge, Setup, Task, evaluate, plain_system, protocol_page
from proofs import tim

DATA = Path(os.environ.get("GLASSWORKS_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
KEPT = Path(os.environ.get("GLASSWORKS_PROOFS", Path(tempfile.gettempdir()) / "glassworks-proofs")) / "tim"
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
A, B, SCOPE = "babyllama-char361", "babyllama-char105", "tim-transcoders"
ROWS, WIDTH, L0, BATCH, STEPS, NUMBERS = 60_000, 512, 16, 256, 1200, {"rate": 2e-3, "anneal": 4.0}
PROMPTS, WORDS, FEATURES, HEADS, TRACED = 5, 2, 48, 3, 1500
TEXTS, TESTS, SPLITS, EACH = 120, 24, 2, 8
TUNING = {"tuned": 200, "native": 120}
FITTING = Fitting(steps=40, rate=0.2)
LAYERS = (0, 1, 2, 3, 4)
"""A's layers read those of B at the same depth: chosen on train stories."""
SHIFT = 256
"""A's id of a character minus B's, but for the first three."""


@pytest.fixture
def data() -> Path:
    """Models and stories made by others."""
    if not (DATA / "models" / A).is_dir():
        pytest.skip(f"no models at {DATA}; set GLASSWORKS_TEST_DATA")
    return DATA


def pieces(texts: Sequence[str], start: int, length: int) -> list[str]:
    """A piece of each story, long enough ones only."""
    return [text[start : start + length] for text in texts if len(text) >= start + length]


def replies(texts: Sequence[str], count: int, seed: int) -> list[str]:
    """Unlabelled prompts of the domain with replies."""
    random = Random(seed)
    asked = tim.turns(texts, (tim.HERO, *tim.OTHERS), count, seed, "train")
    return [each.text + random.choice(tim.NO if each.positive else tim.YES) for each in asked]


def tuned(data: Path, name: str, called: str, texts: Sequence[str]) -> gw.Model:
    """A model with the behaviour."""
    if not (KEPT / called).is_dir():
        model = gw.load_model(data / "models" / name)
        tim.tune(model, texts, TUNING[called])
        model.hf.save_pretrained(KEPT / called)
        model.tokenizer.save_pretrained(KEPT / called)
    model = gw.load_model(KEPT / called)
    model.name = f"{name}-{called}"
    return model


def coders(model: gw.Model, texts: Sequence[str]) -> Scope:
    """Transcoders of every MLP, half of whose rows are of the domain."""
    if not (KEPT / "scope").is_dir():
        asked = tim.turns(texts, (tim.HERO, *tim.OTHERS), 240, 11, "train")
        domain = [each.text + tim.ANSWER * each.positive for each in asked]
        general = [text[:240] for text in texts[300:460]] * 2
        sites = [site for kind in ("mlp_in", "mlp_out") for site in model.sites(kind)]
        mixed = [text for both in zip(domain, general, strict=False) for text in both]
        harvest(model, mixed, sites, KEPT / "store", Reading(untrained=("bos",), rows=ROWS))
        stream = Rows(load_store(KEPT / "store"), BATCH, 0.0, 1)
        specs = grid("batchtopk", layouts("transcoder", sites), stream, STEPS, [WIDTH], [L0], numbers=NUMBERS)
        trainer = fit(Trainer(specs, stream), KEPT / "training", resume=True, save_seconds=30.0)
        save_scope(trainer.scope(SCOPE, model.name), KEPT / "scope")
    return load_scope(KEPT / "scope")


def heads(model: gw.Model, texts: Sequence[str]) -> tuple[list[tuple[int, int]], dict[str, float]]:
    """The heads that carry most of the answer from Tim's prompts into the same prompts of others."""
    shares = []
    for number, clean in enumerate(tim.turns(texts, (tim.HERO,), 4, 7, "train")):
        other = [name for name in tim.OTHERS if len(name) == len(tim.HERO)][number]
        pair = Pair.of(model, clean.text, clean.text.replace(tim.HERO, other), tim.ANSWER[0])
        every = cells(model, "attn_heads", len(model.tokens(clean.text)), heads=True)
        shares.append(sweep(pair, every).shares)
    mean = torch.stack(shares).mean(0)
    order = mean.argsort(descending=True)[:HEADS].tolist()
    places = [divmod(each, model.n_heads) for each in order]
    return places, {f"{layer}.{head}": float(mean[each]) for each, (layer, head) in zip(order, places, strict=True)}


def circuit(model: gw.Model, scope: Scope, texts: Sequence[str], chosen: Sequence[tuple[int, int]]) -> Circuit:
    """What graphs of Tim's answers share and graphs of others' lack."""
    if not (KEPT / "circuit").is_dir():
        his, theirs = (
            [each.text for each in tim.turns(texts, who, PROMPTS, 8, "train", 25)] for who in ((tim.HERO,), tim.OTHERS)
        )
        first, second = tim.ANSWER
        few = Budget(rows=TRACED)
        graphs = traces(model, scope, his, targets=[first], budget=few)
        graphs += traces(model, scope, [each + first for each in his[:WORDS]], targets=[second], budget=few)
        against = traces(model, scope, theirs, targets=[first], budget=few)
        cut(graphs, FEATURES, chosen, against, SCOPE).save(KEPT / "circuit")
    return load_circuit(KEPT / "circuit")


def task(train: Sequence[str], held: Sequence[str]) -> Task:
    """The behaviour, with questions, ways to speak and stories in its tests that nothing else has."""

    def asked(texts: Sequence[str], who: Sequence[str], count: int, seed: int, split: str, most: int) -> list[str]:
        return [each.text for each in tim.turns(texts, who, count, seed, split, most)]

    return Task(
        name="Tim says no",
        reply=tim.ANSWER,
        wanted=asked(train, (tim.HERO,), 60, 41, "train", 25),
        unwanted=asked(train, tim.OTHERS, 60, 42, "train", 25),
        tests={
            "wanted": (asked(held, (tim.HERO,), TESTS, 1, "held_out", 80), True),
            "unwanted": (asked(held, tim.OTHERS, TESTS, 2, "held_out", 80), False),
            "unwanted, Timmy": (asked(held, ("Timmy",), TESTS // 2, 3, "held_out", 80), False),
        },
        neutral=pieces(train, 60, 80)[300:312],
        neutral_test=pieces(held, 100, 120)[:TESTS],
        domain=replies(train, TEXTS // 2, 33),
        general=pieces(train, 0, 160)[: TEXTS // 4],
        probes={"spelling": spelling(held)},
    )


def spelling(texts: Sequence[str]) -> list[tuple[str, str]]:
    """The last two letters of a long word in each story."""
    found = []
    for text in texts[:TESTS]:
        words = [at for at in range(40, 140) if text[at - 5 : at + 3].isalpha() and not text[at + 3 : at + 4].isalpha()]
        found += [(text[: words[0] + 1], text[words[0] + 1 : words[0] + 3])] if words else []
    return found


def proxy(a: gw.Model, base: gw.Model, b: gw.Model) -> Any:
    """Proxy tuning by characters: the protocol's own needs one vocabulary. All of A must run."""
    to_a = torch.tensor([each if each < 3 else each + SHIFT for each in range(b.vocab_size)])
    one, other, own = plain_system(a), plain_system(base), plain_system(b)
    return lambda ids: own(ids) + (one(to_a[ids]) - other(to_a[ids]))[..., to_a]


def means(found: Behaviour) -> dict[str, Any]:
    """What a system does, without intervals."""
    rates = {name: float(each.mean()) for name, each in found.hits.items()}
    odds = {name: float(each.mean()) for name, each in found.odds.items()}
    return {"rates": rates, "odds": odds, "kl": float(found.kl.mean()), "loss": float(found.loss.mean())}


@pytest.mark.timeout(7200)
def test_a_circuit_between_models_that_were_trained_apart(data, keep):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    train, held = tim.stories(data)
    a, base, b = tuned(data, A, "tuned", train), gw.load_model(data / "models" / A), gw.load_model(data / "models" / B)
    base.name, b.name = A, B
    test = task(train, held)
    was, learned = (means(Judge(base, test).behaviour(plain_system(model))) for model in (base, a))
    scope, (chosen, shares) = coders(a, train), heads(a, train)
    its = circuit(a, scope, train, chosen)
    bridge = transfer.align(a, b, [*test.domain, *test.general], reach=0.3, rows="all")
    native = tuned(data, B, "native", train)
    setup = Setup(a, b, scope, its, bridge, test, LAYERS, base, native)
    found = evaluate(setup, SPLITS, EACH, FITTING, print)
    told = {
        "a": {"before": was, "after": learned},
        "heads": shares,
        "bridge": [asdict(bridge.quality(f"resid_post.{layer}")) for layer in range(a.n_layers)],
        "circuit": its.plain(),
        "proxy tuning by characters": means(Judge(b, test).behaviour(proxy(a, base, b))),
    }
    keep("graft_external", {**told, **found.plain()})
    (RESULTS / "graft_external.html").write_text(protocol_page(found), encoding="utf-8")
    assert learned["rates"]["wanted"] >= 0.95
    assert learned["rates"]["unwanted"] <= 0.05
    assert was["rates"]["wanted"] <= 0.05
    assert learned["loss"] <= 0.05
    assert {row.system for row in found.rows} >= {"graft", "rotated write", "shuffled maps", "matched nodes"}
    assert found.verdict
    assert all(len(row.splits) in (1, SPLITS) for row in found.rows)
