"""The protocol: systems are judged as written down, and the verdict says what the rows allow."""

from dataclasses import replace

import pytest
import torch

from glassworks.circuits import Circuit, Group
from glassworks.coders import Scope
from glassworks.edits import FeatureRef
from glassworks.errors import BadArtefact, BadInput
from glassworks.transfer import (
    Evaluation,
    Fitting,
    Judge,
    Setup,
    SystemResult,
    Task,
    edited_system,
    evaluate,
    load_evaluation,
    plain_system,
    protocol_page,
    read_task,
    world_task,
)
from glassworks.transfer.protocol import two_way_interval, verdict
from tests.transfer import worlds
from tests.transfer.test_graft import coder


def tiny_task() -> Task:
    texts = worlds.texts(60, seed=11)
    tests = {"wanted": (texts[:6], True), "unwanted": (texts[6:12], False)}
    domain, general = texts[24:50], texts[50:]
    probes = {"next": [(texts[0], " cat")]}
    return Task("cats", " cat", texts[12:18], texts[18:24], tests, texts[:4], texts[4:8], domain, general, probes)


@pytest.fixture(scope="module")
def setup(twins, bridge) -> Setup:
    one, turned, _ = twins
    coders = {f"mlp_in.{layer}": coder(layer) for layer in range(worlds.LAYERS)}
    refs = tuple(FeatureRef(f"mlp_in.{worlds.LAYERS - 1}", None, index) for index in (0, 1))
    groups = (Group("looking", heads=((1, 0),)), Group("saying", refs))
    circuit = Circuit("one", "tiny", groups, {})
    scope = Scope("tiny", "one", coders, [*coders])
    return Setup(one, turned, scope, circuit, bridge, tiny_task(), base=one, native=turned, unrelated=circuit)


def test_a_judge_counts_what_greedy_replies_begin_with(twins):
    turned, task = twins[1], tiny_task()
    found = Judge(turned, task).behaviour(plain_system(turned))
    for name, (prompts, _) in task.tests.items():
        begins = [turned.predict(prompt, 1)[0].token == " cat" for prompt in prompts]
        assert found.hits[name].tolist() == [float(each) for each in begins]
        chance = [torch.softmax(turned.capture(each, ["logits"])["logits"][-1], 0) for each in prompts]
        odds = torch.stack([p[turned.token_id(" cat")] for p in chance]).double()
        torch.testing.assert_close(found.odds[name].double(), (odds / (1 - odds)).log(), atol=1e-4, rtol=1e-4)
    assert float(found.kl.abs().max()) < 1e-12


@pytest.mark.slow
def test_all_systems_run_and_the_report_is_kept(tmp_path, setup):
    found = evaluate(setup, splits=2, count=2, fitting=Fitting(steps=2))
    names = {row.name for row in found.rows}
    assert {"no change", "native", "proxy tuning", "mapped direction", "few-shot fine-tuning"} <= names
    assert {f"{name}, one gain" for name in ("graft", "rotated write", "shuffled maps", "matched nodes")} <= names
    unchanged, ceiling = found.row("no change"), found.row("native")
    assert unchanged is not None
    assert ceiling is not None
    assert unchanged.rates == ceiling.rates
    assert set(found.groups) == {"looking", "saying"}
    found.save(tmp_path / "report")
    assert load_evaluation(tmp_path / "report").verdict == found.verdict
    assert "rotated write, one gain" in protocol_page(found)


def test_intervals_cover_splits_and_items():
    values = torch.tensor([[1.0] * 50, [0.0] * 50])
    mean, low, high = two_way_interval(values)
    assert (mean, low, high) == (0.5, 0.0, 1.0)
    assert two_way_interval(torch.ones(3, 9)) == (1.0, 1.0, 1.0)
    assert two_way_interval(torch.ones(2, 9), torch.zeros(2, 4)) == (1.0, 1.0, 1.0)


def row(system: str, scalars: str, gap: tuple[float, float, float]) -> SystemResult:
    rates = {"wanted": gap, "unwanted": (0.0, 0.0, 0.0)}
    return SystemResult(system, scalars, rates, {}, gap, (0.001, 0.0, 0.002), (0.0, 0.0, 0.0), {}, [])


def test_the_verdict_follows_from_the_rows():
    rows = [row("graft", "one", (0.9, 0.8, 1.0)), row("random nodes", "one", (0.1, 0.0, 0.2))]
    good = Evaluation({}, [*rows, row("rotated write", "one", (0.2, 0.1, 0.3))], {})
    assert "carries the behaviour" in verdict(good)[0]
    assert "is shown to matter" in verdict(good)[1]
    bad = Evaluation(
        {}, [*rows[:1], row("random nodes", "one", (0.85, 0.7, 0.9)), row("rotated write", "one", (0.9, 0.8, 1.0))], {}
    )
    assert "is not shown to carry" in verdict(bad)[0]
    assert "is not shown to matter" in verdict(bad)[1]


def test_tasks_are_read_and_refused(tmp_path, setup):
    file = tmp_path / "task.json"
    file.write_text("{}")
    with pytest.raises(BadArtefact, match="lacks or misstates"):
        read_task(file)
    with pytest.raises(BadInput, match="2 splits at least"):
        evaluate(setup, splits=1)


def test_the_world_s_task_keeps_test_prompts_apart():
    task = world_task(20, texts=70)
    seen = {*task.wanted, *task.unwanted, *(text.split("<start_of_turn>model\n")[0] for text in task.domain)}
    assert not seen & {prompt for prompts, _ in task.tests.values() for prompt in prompts}
    shown = task.demonstrations(8, 1)
    assert {*shown.wanted} <= {*task.wanted}
    assert replace(task).demonstrations(8, 1) == shown


def test_an_edit_is_a_system(setup):
    ids = setup.b.tokens(worlds.texts(1)[0])[None]
    assert not torch.allclose(edited_system(setup.b, setup.graft)(ids), plain_system(setup.b)(ids))
