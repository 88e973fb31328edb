"""Requests: words become specs, and a wrong word is one clear sentence."""

import pytest

from glassworks.errors import BadInput, NotFound
from glassworks.train import Request, estimate


def test_words_become_specs(stream):
    words = ["kind=sae,clt", "sites=mlp_in", "width=16,32", "l0=2,4", "tokens=1m", "batch=1000", "rate=1e-3"]
    words += ["products=bfloat16"]
    request = Request.parse("batchtopk", words)
    assert (request.steps, request.batch) == (1000, 1000)
    rows = stream()
    specs = request.specs(rows)
    assert [site.name for site in request.chosen([*rows.widths])] == ["mlp_in.0", "mlp_in.1", "mlp_out.0", "mlp_out.1"]
    assert len(specs) == 4 * (2 + 1)
    assert specs[0].name == "mlp_in.0/width_16_l0_2"
    assert specs[-1].name == "clt/width_32_l0_4"
    assert specs[0].adam.rate.peak == 1e-3
    assert {spec.products for spec in specs} == {"bfloat16"}


def test_widths_are_written_as_releases_do(stream):
    request = Request.parse("gemma_scope_2", ["width=16k,65k,1m,1500", "l0=10", "prefixes=100,16k", "resample=9"])
    assert request.widths == [16384, 65536, 1048576, 1500]
    assert request.numbers == {"prefixes": (100, 16384), "resample": 9}
    assert isinstance(request.numbers["resample"], int)


@pytest.mark.parametrize(
    ("recipe", "words", "message"),
    [
        ("topk", ["l0"], "key=value"),
        ("topk", ["width=8"], "needs l0="),
        ("topk", ["weight=3"], "takes its sparsity as l0="),
        ("gemma_scope_1", ["l0=3"], "takes its sparsity as weight="),
        ("topk", ["l0=many"], "must be a number"),
        ("topk", ["l0=3", "ratte=1"], "takes no 'ratte'; the nearest are rate"),
        ("topc", ["l0=3"], "no recipe 'topc'; the nearest are topk"),
        ("topk", ["l0=3", "rate=fast"], "value of rate is 'fast'"),
        ("topk", ["l0=3", "products=float16"], "float32 or bfloat16, not 'float16'"),
        ("topk", ["l0=3", "sites=mlp_inn"], "the nearest are mlp_in"),
        ("topk", ["l0=3", "kind=sea"], "no kind of coder 'sea'"),
    ],
)
def test_wrong_words(stream, recipe, words, message):
    with pytest.raises((BadInput, NotFound), match=message):
        Request.parse(recipe, words).specs(stream())


def test_an_estimate_counts(stream):
    specs = Request.parse("topk", ["kind=clt", "width=100", "l0=2", "steps=10"]).specs(stream())
    found = estimate(specs, stream())
    assert found["parameters"] == 100 * (24 + 48 + 1) + 100 * (24 + 24 + 1) + 48
    assert found["tokens"] == 1280
    assert found["hours"] > 0
