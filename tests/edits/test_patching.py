"""Patching: batched sweeps equal single runs, approximations are exact where they must be, wrong input is told."""

import copy

import pytest
import torch

from glassworks.edits import (
    WAYS,
    Cell,
    Metric,
    Pair,
    agreement,
    approximate,
    cells,
    edges,
    exact_edges,
    sweep,
)
from glassworks.errors import BadInput, NotFound
from glassworks.models import Model
from glassworks.sites import Site

CLEAN, CORRUPT = [3, 17, 5, 40, 8, 22, 9], [3, 17, 6, 40, 8, 23, 9]
KINDS = ("resid_post", "mlp_in", "attn_out", "q", "pattern")


@pytest.fixture
def pair(model) -> Pair:
    return Pair.of(model, CLEAN, CORRUPT, "#7 - #11")


def one_by_one(pair: Pair, wanted: list[Cell], way: str) -> torch.Tensor:
    """The same with one forward a cell, by taps written out."""
    base, source = pair.runs(way)
    values = []
    for cell in wanted:
        carried = pair.model.capture(source, [cell.site])[str(cell.site)]

        def tap(value: torch.Tensor, cell=cell, carried=carried) -> torch.Tensor:
            value = value.clone()
            spots = slice(None) if cell.position is None else cell.position
            if cell.head is None:
                value[0, spots] = carried[spots]
            elif value.ndim == 3:
                width = slice(cell.head * pair.model.d_head, (cell.head + 1) * pair.model.d_head)
                value[0, spots, width] = carried[spots, width]
            else:
                value[0, spots, cell.head] = carried[spots, cell.head]
            return value

        with pair.model.tapped({cell.site: tap}):
            values.append(pair.metric(pair.model.capture(base, ["logits"])["logits"][-1]))
    return torch.stack(values)


@pytest.mark.parametrize("way", WAYS)
def test_a_batched_sweep_equals_single_runs(pair, way):
    wanted = [
        Cell(Site("embed"), 2),
        Cell(Site("logits"), 6),
        Cell(Site("resid_pre", 1)),
        Cell(Site("resid_mid", 1), 2),
    ]
    wanted += [cell for kind in KINDS for cell in cells(pair.model, kind, 7, layers=[0, 2], positions=[2, -1])]
    wanted += [cell for kind in ("attn_heads", "v") for cell in cells(pair.model, kind, 7, layers=[1], heads=True)]
    wanted += cells(pair.model, "attn_heads", 7, layers=[2], positions=[-1], heads=True)
    wanted = [cell for cell in wanted if not (pair.model.parallel and cell.site.kind == "resid_mid")]
    found = sweep(pair, wanted, way, batch_tokens=70)
    torch.testing.assert_close(found.values, one_by_one(pair, wanted, way), atol=1e-4, rtol=1e-4)


def test_a_sweep_of_an_edited_model_is_of_the_edited_model(pair):
    bend = {Site("mlp_out", 0): lambda value: value * 0.5, Site("logits"): lambda value: value + value.roll(1, 1)}
    wanted = cells(pair.model, "resid_post", 7, positions=[2, -1])
    with pair.model.tapped(bend):
        found = sweep(pair, wanted)
        torch.testing.assert_close(found.values, one_by_one(pair, wanted, "denoising"), atol=1e-4, rtol=1e-4)


def test_all_of_the_stream_restores_everything(pair):
    last = pair.model.n_layers - 1
    found = sweep(pair, [Cell(Site("resid_pre", 0)), Cell(Site("resid_post", last), 6), Cell(Site("resid_pre", 0), 0)])
    torch.testing.assert_close(found.shares, torch.tensor([1.0, 1.0, 0.0]).double(), atol=1e-4, rtol=0)
    assert found.top(2)[0][1] == pytest.approx(1, abs=1e-4)
    plain = found.plain()
    assert plain["cells"][1] == {"site": f"resid_post.{last}", "position": 6, "head": None} | {
        name: pytest.approx(value, abs=1e-3) for name, value in (("value", found.goal), ("share", 1.0))
    }


def test_the_grid_has_a_row_a_site_and_a_column_a_position(pair):
    rows, columns, shares = sweep(pair, cells(pair.model, "mlp_out", 7, layers=[0, 2])).grid()
    assert rows == ["mlp_out.0", "mlp_out.2"]
    assert columns[:3] == ["#3 0", "#17 1", "#5/#6 2"]
    assert [len(row) for row in shares] == [7, 7]
    rows, columns, _ = sweep(pair, cells(pair.model, "attn_heads", 7, layers=[1], heads=True)).grid()
    assert (rows, columns) == (["attn_heads.1"], [f"head {each}" for each in range(4)])


def test_integrated_gradients_of_the_embeddings_add_up(pair):
    """The axiom of completeness: what the embeddings do adds up to the whole difference."""
    found = approximate(pair, cells(pair.model, "embed", 7), method="integrated", steps=100)
    added = float((found.values - found.start).sum())
    assert added == pytest.approx(found.goal - found.start, rel=0.05)


def near(model: Model) -> Model:
    """A model in float64 in which the tokens 5 and 6, and 22 and 23, are nearly the same."""
    hf = copy.deepcopy(model.hf).double()
    with torch.no_grad():
        table = hf.get_input_embeddings().weight
        if hf.get_output_embeddings().weight is table:  # the metric must not move with them
            hf.get_output_embeddings().weight = torch.nn.Parameter(table.clone())
        for one, other in ((5, 6), (22, 23)):
            table[other] = table[one] + 1e-3 * torch.randn(table.shape[1], dtype=torch.float64)
    return Model(hf, name="near")


@pytest.mark.parametrize("method", ["attribution", "integrated"])
def test_approximations_are_exact_for_small_changes(model, method):
    pair = Pair.of(near(model), CLEAN, CORRUPT, "#7 - #11")
    wanted = [cell for kind in ("resid_post", "mlp_in", "q") for cell in cells(pair.model, kind, 7)]
    wanted += cells(pair.model, "attn_heads", 7, heads=True)
    exact, estimate = sweep(pair, wanted), approximate(pair, wanted, method=method)
    assert agreement(exact.shares, estimate.shares).pearson > 0.9999
    torch.testing.assert_close(exact.shares, estimate.shares, atol=1e-2, rtol=0)


def test_edges_are_exact_for_small_changes(model):
    pair = Pair.of(near(model), CLEAN, CORRUPT, "#7 - #11")
    found = edges(pair, steps=2)
    wanted = [(found.senders[one], found.receivers[other]) for one, other in found.possible.nonzero().tolist()]
    assert len(wanted) == int(found.possible.sum()) > 50
    exact, estimate = exact_edges(pair, wanted), found.scores[found.possible]
    assert agreement(exact, estimate).pearson > 0.9999
    torch.testing.assert_close(exact, estimate, atol=float(exact.abs().max()) * 1e-2, rtol=0)
    assert [str(each) for each in found.top(1)[0][:2]] == list(found.plain(1)[0].values())[:2]


def test_exact_edges_into_the_logits_of_everything_are_the_whole(model):
    """Embeddings, heads and MLPs make up the final stream, so all edges into the logits do what all of it does."""
    pair = Pair.of(model, CLEAN, CORRUPT, "#7")
    found = edges(pair, "noising", steps=1)
    assert not found.possible[0].logical_not().any()  # everything reads the embeddings
    assert found.possible[:, -1].all()
    assert not found.possible[-1, :-1].any()  # the last MLP is read by the logits alone


def test_agreement_counts_the_largest_of_either_sign():
    exact = torch.tensor([5.0, -4.0, 0.1, 0.0, 0.2, 0.0])
    assert agreement(exact, exact * 2, 2).plain() == {
        "pearson": 1.0,
        "overlap": 1.0,
        "chance": 1 / 3,
        "k": 2,
        "count": 6,
    }
    other = torch.tensor([5.0, 0.0, 0.1, -9.0, 0.2, 0.0])
    assert agreement(exact, other, 2).overlap == 0.5
    assert agreement(exact, torch.zeros(6)).plain()["pearson"] is None
    with pytest.raises(BadInput, match="two effects"):
        agreement(exact[:1], exact[:1])


def test_a_metric_is_a_difference_or_a_log_probability(llama):
    logits = torch.randn(2, 61, dtype=torch.float64)
    both, one = Metric.parse(llama, "#3 - #4"), Metric.parse(llama, "#3")
    assert both(logits).tolist() == (logits[:, 3] - logits[:, 4]).tolist()
    torch.testing.assert_close(one(logits), logits.log_softmax(1)[:, 3])


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        (lambda m: Pair.of(m, CLEAN, CORRUPT[:-1], "#7"), BadInput, "equally many"),
        (lambda m: Pair.of(m, CLEAN, CLEAN, "#7"), BadInput, "are the same"),
        (lambda m: Pair.of(m, CLEAN, CORRUPT, "#61"), BadInput, "no token #61"),
        (lambda m: cells(m, "resid_past", 7), NotFound, "resid_post"),
        (lambda m: cells(m, "resid_post", 7, layers=[9]), BadInput, "no layer 9"),
        (lambda m: cells(m, "resid_post", 7, positions=[7]), BadInput, "0 to 6"),
        (lambda m: cells(m, "mlp_out", 7, heads=True), BadInput, "not made of heads"),
        (lambda m: sweep(Pair.of(m, CLEAN, CORRUPT, "#7"), []), BadInput, "no cells"),
        (lambda m: approximate(Pair.of(m, CLEAN, CORRUPT, "#7"), []), BadInput, "no cells"),
        (lambda m: edges(Pair.of(m, CLEAN, CORRUPT, "#7"), steps=0), BadInput, "at least one"),
        (lambda m: sweep(Pair.of(m, CLEAN, CORRUPT, "#7 - #7"), cells(m, "mlp_out", 7)), BadInput, "on both prompts"),
    ],
)
def test_wrong_input_is_told(llama, wrong, error, said):
    with pytest.raises(error, match=said):
        wrong(llama)
