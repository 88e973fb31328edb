"""Experiments against what the model does when it is run by hand."""

import json
from random import Random

import pytest
import torch

import glassworks as gw
from glassworks import stats
from glassworks.edits import Direction, FeatureRef, Features, Pair, cells, divergence, outcome, project_out, sweep
from glassworks.errors import BadInput
from glassworks.experiments import (
    Case,
    Coders,
    Constant,
    Control,
    Edits,
    Experiment,
    Logits,
    Metric,
    Patch,
    SourcePrompt,
    Table,
    active_features,
    doses,
    exact_match,
    fvu,
    judged,
    kl,
    kl_divergence,
    l0,
    logit_difference,
    loss,
    matched_features,
    other_features,
    probability,
    projection,
    random_directions,
    shuffled_labels,
)

PROMPT, OTHER = (f"The capital of the state containing {city} is" for city in ("Dallas", "Oakland"))
TEXTS = ["Dallas is in Texas.", "The capital of France is Paris.", "Houston is a city in the state of Texas."]


@pytest.fixture(scope="module")
def model() -> gw.Model:
    return gw.load_model("smallworld")


@pytest.fixture(scope="module")
def scope() -> gw.Scope:
    return gw.load_scope("smallworld")


@pytest.fixture(scope="module")
def graph(model, scope) -> gw.Graph:
    return gw.trace(model, scope, PROMPT)


def test_an_ablation_is_what_its_outcome_says(model, graph):
    ablation = gw.ablate(graph.find("Texas"))
    metrics = [kl("token"), kl("last"), probability(), judged("says Austin", "Austin", 3), exact_match()]
    table = Experiment(model, [Case(PROMPT, answer="Austin")], [Edits("ablate", [ablation])], metrics).run()
    old = outcome(model, PROMPT, [ablation], new_tokens=3)
    assert table.where(metric="kl token", intervention="ablate")["value"].tolist() == pytest.approx(
        old.kl, rel=1e-6, abs=1e-9
    )
    assert table.mean("kl last", "ablate").value == pytest.approx(old.kl[-1], rel=1e-6)
    austin = next(choice for choice in old.choices if choice.token.strip() == "Austin")
    assert table.mean("probability").value == pytest.approx(austin.clean, rel=1e-6)
    assert table.mean("probability", "ablate").value == pytest.approx(austin.edited, rel=1e-6)
    assert (table.where(metric="kl token", intervention="clean")["value"] == 0).all()
    assert table.mean("says Austin").value == 1
    assert table.mean("exact match").value == 1


@pytest.mark.parametrize(
    ("kind", "way"), [("resid_post", "denoising"), ("mlp_out", "noising"), ("attn_heads", "denoising")]
)
def test_patches_are_those_of_a_sweep(model, kind, way):
    pair = Pair.of(model, PROMPT, OTHER, "Austin - Sacramento")
    places = cells(model, kind, len(pair.clean), heads=kind == "attn_heads")
    prompt, source = (OTHER, PROMPT) if way == "denoising" else (PROMPT, OTHER)
    arms = [SourcePrompt(), *(Patch(str(cell), [cell.site], cell.position, cell.head) for cell in places)]
    case = Case(prompt, answer="Austin", foil="Sacramento", source=source)
    table = Experiment(model, [case], arms, [logit_difference()]).run()
    values = {name: float(value) for name, value in zip(table["intervention"], table["value"], strict=True)}
    swept = sweep(pair, places, way)
    assert [values[str(cell)] for cell in places] == pytest.approx(swept.values.tolist(), abs=1e-4)
    assert table.recovered("logit difference", str(places[0]), "clean", "source").value == pytest.approx(
        float(swept.shares[0]), abs=1e-5
    )


def test_losses_and_divergences_are_those_of_each_text(model):
    ids = [model.tokens(text).tolist() for text in TEXTS]
    edit = gw.add_vector("resid_post.1", torch.ones(model.d_model))
    table = Experiment(model, [Case(row) for row in ids], [Edits("add", [edit])], [loss(), kl()], tokens=24).run()
    sums = torch.zeros(3, dtype=torch.float64)
    for row in ids:
        clean = model.capture(row, ["logits"])["logits"][:-1].double()
        with model.edit(edit):
            edited = model.capture(row, ["logits"])["logits"][:-1].double()
        target = torch.tensor(row[1:])
        sums += torch.stack([
            torch.nn.functional.cross_entropy(clean, target, reduction="sum"),
            torch.nn.functional.cross_entropy(edited, target, reduction="sum"),
            divergence(clean, edited).sum(),
        ])  # fmt: skip
    tokens = sum(len(row) - 1 for row in ids)
    means = [table.mean("loss"), table.mean("loss", "add"), table.mean("kl", "add")]
    assert [mean.value for mean in means] == pytest.approx((sums / tokens).tolist(), rel=1e-5)
    assert all(mean.low <= mean.value <= mean.high for mean in means)
    gap = table.difference("loss", "add")
    assert gap.value == pytest.approx(means[1].value - means[0].value)


def test_coders_act_where_cases_keep_tokens(model, scope):
    ids = [model.tokens(text).tolist() for text in TEXTS]
    coder = scope["mlp_in.1"]
    write, mean = coder.writes[0], torch.zeros(model.d_model)
    kept = [[False] + [True] * (len(row) - 1) for row in ids]
    cases = [Case(row, kept=marks) for row, marks in zip(ids, kept, strict=True)]
    arms = [
        Coders("coder", [coder]),
        Constant("zero", {write: mean}),
        Logits("same", lambda ids: model.hf(ids).logits),
    ]
    table = Experiment(model, cases, arms, [kl(), fvu(coder, mean), l0(coder)]).run()
    assert 0 < table.mean("kl", "coder").value < table.mean("kl", "zero").value
    assert table.mean("kl", "same").value < 1e-9
    values = [model.capture(row, [coder.reads[0], write]) for row in ids]
    reads, writes = (torch.cat([value[str(site)][1:] for value in values]) for site in (coder.reads[0], write))
    error = (coder(reads) - writes).double().square().sum() / writes.double().square().sum()
    assert table.mean("FVU mlp_in.1").value == pytest.approx(float(error), rel=1e-5)
    assert table.mean("L0 mlp_in.1").value == pytest.approx(float(coder.encode(reads).counts.double().mean()))


def test_draws_of_a_control_match_the_target(model, scope, graph):
    texas = gw.ablate(graph.find("Texas"))
    pool = active_features(model, scope)
    control = matched_features(pool, draws=3)
    case = Case(PROMPT)
    drawn = [arm.of(case)[0].target for arm in control.of(Edits("ablate", [texas]))]
    named = texas.target.refs
    activations = pool(case)
    for target in drawn:
        assert [ref.coder_id for ref in target.refs] == [ref.coder_id for ref in named]
        assert len(set(target.refs)) == len(named)
        assert not set(target.refs) & set(named)
        assert all(activations[ref] > 0 for ref in target.refs)
    assert drawn == [arm.of(case)[0].target for arm in control.of(Edits("ablate", [texas]))]
    assert len(set(drawn)) > 1
    everywhere = active_features(model, scope, TEXTS)(case)
    assert all(ref.position is None for ref in everywhere)


def test_other_controls_keep_what_they_should():
    direction = project_out("resid_post.1", [3.0, 0.0, 4.0])
    picked = random_directions(2).of(Edits("out", [direction]))[1].of(Case([1]))[0]
    assert picked.target.norm == pytest.approx(5)
    assert picked.target != direction.target
    assert picked.operation == "project_out"
    refs = [FeatureRef("mlp_in.1", None, n) for n in range(4)]
    made = other_features(refs).pick([Features((FeatureRef("mlp_in.1", None, 9),))], Case([1]), Random(0))
    assert made[0].refs[0] in refs
    labels = [1, 1, 0, 0]
    control = shuffled_labels(lambda order: [Direction.of("resid_post.1", [float(each) for each in order])], labels, 5)
    vectors = {control.pick([direction.target], Case([1]), Random(seed))[0].vector for seed in range(5)}
    assert len(vectors) > 1
    assert all(sum(vector) == 2 for vector in vectors)
    with pytest.raises(BadInput, match="The other concept"):
        other_features(refs[:1]).pick([Features(tuple(refs[1:]))], Case([1]), Random(0))
    with pytest.raises(BadInput, match="for features"):
        matched_features(lambda case: {}).pick([direction.target], Case([1]), Random(0))


def test_a_table_compares_with_chance(model, scope, graph):
    control = matched_features(active_features(model, scope), draws=9)
    experiment = Experiment(
        model,
        [Case(PROMPT, answer="Austin", foil="Sacramento")],
        [Edits("ablate Texas", [gw.ablate(graph.find("Texas"))])],
        [logit_difference(), kl("last")],
        [control],
    )
    table = experiment.run()
    assert table.p_value("kl last", "ablate Texas", control.name) == 0.1
    gap = table.difference("kl last", "ablate Texas", "ablate Texas", control.name)
    assert gap.low > 0
    assert len(str(table).splitlines()) <= 20
    assert "ablate Texas ~ matched features" in str(table)
    assert table._repr_html_().count("<tr>") == 4


def test_doses_make_a_curve(model, tmp_path):
    push = torch.randn(model.d_model, generator=torch.Generator().manual_seed(0))
    arms = doses("push", lambda by: [gw.add_vector("resid_post.2", push, by=by)], [0, 1, 4])
    table = Experiment(model, [Case(text) for text in TEXTS], arms, [kl()], [random_directions(2)]).run()
    curve = table.curve("kl", "push")
    assert [amount for amount, _ in curve] == [0, 1, 4]
    assert curve[0][1].value < 1e-9 < curve[1][1].value < curve[2][1].value
    assert len(table.curve("kl", "push", "random directions")) == 3
    with pytest.raises(BadInput, match="which amount of 'push': 0, 1, 4"):
        table.mean("kl", "push")
    table.save(tmp_path / "curve.html", "Push & pull")
    page = (tmp_path / "curve.html").read_text()
    assert "<svg" in page
    assert "Push &amp; pull" in page


def test_saved_tables_are_read_again(model, tmp_path):
    table = Experiment(model, [Case(text) for text in TEXTS], [], [loss()]).run()
    table.save(tmp_path / "t.json")
    again = Table.read(tmp_path / "t.json")
    assert str(again) == str(table)
    pyarrow = pytest.importorskip("pyarrow.parquet")
    table.save(tmp_path / "t.parquet")
    assert pyarrow.read_table(tmp_path / "t.parquet")["value"].to_pylist() == table["value"].tolist()
    with pytest.raises(BadInput, match="json"):
        table.save(tmp_path / "t.txt")


def test_a_stopped_run_goes_on(model, tmp_path, monkeypatch):
    cases = [Case(text) for text in TEXTS]
    arms = [Edits(str(n), [gw.add_vector("resid_post.1", torch.full((model.d_model,), float(n)))]) for n in range(1, 4)]
    experiment = Experiment(model, cases, arms, [loss(), kl("token")], tokens=20)
    whole = experiment.run()
    journal = tmp_path / "journal.jsonl"
    experiment.run(journal)
    lines = journal.read_text().splitlines(keepends=True)
    assert len(lines) == 1 + len({json.loads(line)[0] for line in lines[1:]})
    journal.write_text("".join(lines[:5]) + lines[5][:40])  # stopped while it wrote
    again = experiment.run(journal)
    assert all((whole[name] == again[name])[whole[name] == whole[name]].all() for name in whole.columns)
    assert len(journal.read_text().splitlines()) == len(lines)
    other = Experiment(model, cases, arms[1:], [loss()], tokens=20)
    with pytest.raises(BadInput, match="another experiment"):
        other.run(journal)


def test_what_a_metric_needs_is_said(model):
    with pytest.raises(BadInput, match="needs the foil"):
        Experiment(model, [Case(PROMPT, answer="Austin")], [], [logit_difference()]).run()
    with pytest.raises(BadInput, match="at least one case"):
        Experiment(model, [], [], [loss()])
    with pytest.raises(BadInput, match="Two metrics have the name 'loss'"):
        Experiment(model, [Case(PROMPT)], [], [loss(), loss()])
    with pytest.raises(BadInput, match="called clean"):
        Experiment(model, [Case(PROMPT)], [Edits("clean", [])], [loss()])
    case = Case(PROMPT, answer="Austin", foil="Paris", source="Dallas is")
    with pytest.raises(BadInput, match="as many tokens"):
        Experiment(model, [case], [SourcePrompt()], [logit_difference()]).run()
    table = Experiment(model, [Case(PROMPT)], [], [loss()]).run()
    with pytest.raises(BadInput, match="the nearest are loss of clean"):
        table.mean("los")


def test_shares_have_an_honest_interval(model):
    cases = [Case(text, answer=".") for text in TEXTS]
    always = Metric("always", lambda batch: torch.ones(len(batch.cases), 1, dtype=torch.float64))
    share = Experiment(model, cases, [], [always]).run().mean("always")
    assert (share.value, share.low) == (1, pytest.approx(stats.wilson(3, 3).low))
    grouped = [Case(text, group="one") for text in TEXTS]
    assert Experiment(model, grouped, [], [always]).run().mean("always").clusters == 1


def test_own_metrics_read_sites(model):
    vector = torch.randn(model.d_model, generator=torch.Generator().manual_seed(1))
    table = Experiment(model, [Case(PROMPT)], [], [projection("probe", "resid_post.2", vector)]).run()
    state = model.capture(PROMPT, ["resid_post.2"])["resid_post.2"][-1]
    assert table.mean("probe").value == pytest.approx(float(state.double() @ vector.double()), rel=1e-6)


def test_ruled_out_tokens_add_nothing():
    logits = torch.tensor([[1.0, -torch.inf, 2.0]])
    assert kl_divergence(logits, logits).tolist() == [0.0]
    assert float(kl_divergence(logits, logits.roll(1, 1))) == float("inf")


def test_one_draw_may_be_written_by_hand(model, graph):
    """A control that needs more than other targets is an arm with its own name of control and seed."""
    texas = gw.ablate(graph.find("Texas"))
    control = Control("same again", lambda targets, case, random: targets, draws=2)
    table = Experiment(model, [Case(PROMPT)], [Edits("ablate", [texas])], [kl("last")], [control]).run()
    assert table.p_value("kl last", "ablate", "same again") == 1
    by_hand = Edits("ablate", [texas], control="by hand", seed=0)
    table = Experiment(model, [Case(PROMPT)], [Edits("ablate", [texas]), by_hand], [kl("last")]).run()
    assert table.difference("kl last", "ablate", "ablate", "by hand").value == 0
