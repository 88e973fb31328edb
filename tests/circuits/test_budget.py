"""Budgets: the rows that matter come first, what is left out is known exactly, and work goes on where it ended."""

from itertools import count, pairwise

import pytest
import torch

from glassworks.circuits import Budget, Graph, Node, load_graph, trace, traces
from glassworks.circuits.engine import rows as rows_module
from glassworks.circuits.engine.rows import size_of
from glassworks.errors import BadInput
from tests.circuits.tiny import PROMPT, random_clt, random_model, random_scope

OTHER = [0, 9, 41, 27, 3]


@pytest.fixture(scope="module")
def setting():
    model = random_model("gemma3")
    scope = random_scope(model, skip=True)
    return model, scope, trace(model, scope, PROMPT)


@pytest.fixture
def small_rounds(monkeypatch):
    monkeypatch.setattr(rows_module, "FIRST", 8)


def key(node: Node) -> tuple[object, ...]:
    return node.kind, node.place, node.position, node.index


def assert_within(part: Graph, whole: Graph) -> None:
    """Known influence is a lower bound, and what is unexplored bounds what may come on top."""
    weight = float(whole.edges.weights.sum())
    assert (part.influence <= whole.influence + 1e-6).all()
    assert (whole.influence <= part.influence + part.unexplored * weight + 1e-6).all()


@pytest.mark.parametrize("make", [random_scope, random_clt])
@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_a_truncated_graph_bounds_the_full_one(family, make, small_rounds):
    model = random_model(family)
    scope = make(model)
    whole = trace(model, scope, PROMPT)
    assert whole.unexplored == pytest.approx(0.0, abs=1e-6)
    shares = []
    for most in (0, 8, 30, 60, 100):
        part = trace(model, scope, PROMPT, budget=Budget(rows=most))
        assert len(part.rows) == most + int(part.nodes.of("logit").sum())
        assert part.truncated
        assert_within(part, whole)
        assert part.conservation.max() <= 1e-4
        wanted = whole.matrix[torch.isin(whole.rows, part.rows)]
        torch.testing.assert_close(part.matrix, wanted, atol=1e-5, rtol=1e-4)
        shares.append(part.unexplored)
    assert all(more > less for more, less in pairwise(shares))


def test_influence_ends_in_embeddings_errors_and_the_unexplored(setting):
    model, scope, _ = setting
    part = trace(model, scope, PROMPT, budget=Budget(rows=20))
    ends = part.nodes.of("embedding") | part.nodes.of("error")
    share = float(part.influence[ends].sum() / part.edges.weights.sum())
    assert share + part.unexplored == pytest.approx(1.0, abs=1e-5)


def test_all_rows_within_a_budget_are_the_full_graph(setting):
    model, scope, whole = setting
    part = trace(model, scope, PROMPT, budget=Budget(rows=10_000, seconds=1000, memory="1GB"))
    assert torch.equal(part.rows, whole.rows)
    torch.testing.assert_close(part.matrix, whole.matrix, atol=1e-5, rtol=1e-4)
    assert not part.truncated


def test_nodes_that_the_interval_decides_are_kept_alike(setting, small_rounds):
    model, scope, whole = setting
    part = trace(model, scope, PROMPT, budget=Budget(rows=110))
    slack = part.unexplored * float(part.edges.weights.sum())
    order = whole.influence.sort(descending=True).values
    cut = float(order[int((order.cumsum(0) / order.sum() < 0.8).sum())])
    sure = (part.influence > cut) | (part.influence + slack < cut)
    assert sure.float().mean() > 0.8
    assert torch.equal((part.influence > cut)[sure], (whole.influence > cut)[sure])


def test_a_pruned_graph_still_adds_up(setting):
    model, scope, whole = setting
    part = trace(model, scope, PROMPT, budget=Budget(rows=40))
    for graph in (whole, part):
        small = graph.prune(0.7, 0.9)
        assert len(small.nodes) < len(graph.nodes)
        assert small.conservation.max() <= 1e-4
    explored = part.explored()
    assert not explored.truncated
    assert explored.conservation.max() <= 1e-4
    assert explored.unexplored == part.unexplored


def test_mass_kept_and_merged_is_all(setting):
    whole = setting[2]
    small = whole.prune(0.7, 0.9)
    assert small.rest_size.max() > 0
    sizes = dict(zip(map(key, whole.nodes.select(whole.rows)), whole.edges.sizes().tolist(), strict=True))
    kept = small.matrix.abs().sum(1) / torch.tensor([sizes[key(node)] for node in small.nodes.select(small.rows)])
    merged = small.rest_size / torch.tensor([sizes[key(node)] for node in small.nodes.select(small.rows)])
    torch.testing.assert_close(kept + merged, torch.ones_like(kept), atol=1e-5, rtol=0)


def test_work_goes_on_where_it_ended(setting, small_rounds, tmp_path):
    model, scope, whole = setting
    trace(model, scope, PROMPT, budget=Budget(rows=25)).save(tmp_path / "graph")
    part = load_graph(tmp_path / "graph", scope)
    told = []
    more = trace(model, scope, PROMPT, budget=Budget(rows=60), resume=part, progress=lambda *said: told.append(said))
    assert len(more.rows) == len(part.rows) + 35
    assert torch.isin(part.rows, more.rows).all()
    assert more.unexplored < part.unexplored
    assert told[-1] == (len(more.rows), len(more.rows), pytest.approx(more.unexplored, abs=1e-6))
    done = trace(model, scope, PROMPT, resume=more)
    torch.testing.assert_close(done.matrix, whole.matrix, atol=1e-5, rtol=1e-4)
    assert torch.equal(trace(model, scope, PROMPT, resume=more, budget=Budget(rows=3)).rows, more.rows)


def test_only_the_same_graph_is_resumed(setting):
    model, scope, whole = setting
    for other in (
        trace(model, scope, OTHER, budget=Budget(rows=9)),
        trace(model, None, PROMPT),
        trace(model, scope, PROMPT, targets=[3]),
        whole.prune(),
        trace(random_model("gemma3", seed=5), random_scope(random_model("gemma3", seed=5), skip=True), PROMPT),
    ):
        with pytest.raises(BadInput, match="cannot be resumed"):
            trace(model, scope, PROMPT, resume=other)


def test_an_interrupted_trace_is_a_graph(setting, small_rounds):
    model, scope, whole = setting

    def stop(done: int, most: int, unexplored: float) -> None:
        assert 0 < done <= most
        raise KeyboardInterrupt

    part = trace(model, scope, PROMPT, progress=stop)
    assert part.origin.facts["interrupted"]
    assert 0 < len(part.rows) < len(whole.rows)
    assert part.conservation.max() <= 1e-4
    assert_within(part, whole)


def test_time_ends_the_work(setting, small_rounds, monkeypatch):
    model, scope, whole = setting
    clock = count()
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))
    part = trace(model, scope, PROMPT, budget=Budget(seconds=5))
    assert 0 < len(part.rows) < len(whole.rows)


@pytest.mark.parametrize("budget", [Budget(seconds=1e-9), Budget(memory="20kB"), Budget(memory=1)])
def test_budgets_too_small_for_the_outcomes_are_refused(setting, budget):
    model, scope, _ = setting
    with pytest.raises(BadInput, match="too small"):
        trace(model, scope, PROMPT, budget=budget)


def test_memory_bounds_the_rows(setting):
    model, scope, whole = setting
    part = trace(model, scope, PROMPT, budget=Budget(memory="180kB"))
    assert 0 < len(part.rows) < len(whole.rows)
    assert part.matrix.nbytes < 180_000


@pytest.mark.parametrize(
    "wrong", [{"rows": -1}, {"seconds": 0}, {"seconds": -2.0}, {"memory": "much"}, {"memory": "0GB"}]
)
def test_budgets_that_make_no_sense_are_refused(wrong):
    with pytest.raises(BadInput):
        Budget(**wrong)


@pytest.mark.parametrize(("text", "size"), [("4GB", 4 * 10**9), ("1.5 GiB", 3 * 2**29), ("500mb", 5 * 10**8), (77, 77)])
def test_sizes_are_read(text, size):
    assert size_of(text) == size


@pytest.mark.parametrize("family", ["gemma3", "gpt_neox", "llama"])
def test_several_prompts_give_the_graphs_of_each_alone(family):
    model = random_model(family)
    scope = random_clt(model, skip=True)
    prompts = [PROMPT, OTHER, PROMPT[:3], [0, 8, 8, 8, 20, 31]]
    for prompt, together in zip(prompts, traces(model, scope, prompts), strict=True):
        alone = trace(model, scope, prompt)
        assert torch.equal(alone.nodes.index, together.nodes.index)
        torch.testing.assert_close(together.matrix, alone.matrix, atol=1e-5, rtol=1e-4)
        assert together.conservation.max() <= 1e-4


def test_several_prompts_share_a_budget(setting, small_rounds):
    model, scope, _ = setting
    found = traces(model, scope, [PROMPT, OTHER], budget=Budget(rows=12))
    assert [len(each.rows) - int(each.nodes.of("logit").sum()) for each in found] == [12, 12]


def test_no_prompts_are_no_graphs(setting):
    model, scope, _ = setting
    assert traces(model, scope, []) == []
