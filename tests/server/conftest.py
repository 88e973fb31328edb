"""A small graph made by hand, a scope with evidence, and a served explorer."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import uvicorn
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from glassworks.circuits import Graph, Nodes, Origin
from glassworks.coders import Evidence, ReLU, Scope, Transcoder, save_scope
from glassworks.server import create_app
from glassworks.sites import Site

from .browser import Browser

WORDS = ("<bos>", "the", "cat", "sat", "on", "</script>", "mat", "rug")
PROMPT = (0, 1, 2, 3, 4, 1)
LAYERS, LATENTS, FEATURES = 3, 12, 4


def make_graph(scope: Scope | None = None) -> Graph:
    """Four features in each of three layers and positions, errors, embeddings and three outcomes, random edges."""
    generator = torch.Generator().manual_seed(7)
    places = [(layer, position) for layer in range(LAYERS) for position in range(3, 6)]
    features = [(*place, index) for place in places for index in range(FEATURES)]
    layer, position, index = (torch.tensor(column) for column in zip(*features, strict=True))
    labels = [f"reads {number} of {at} -> writes {place}" for at, place, number in features]
    activation = torch.rand(len(features), generator=generator) + 0.5
    parts = [
        Nodes.build("feature", {"layer": layer, "position": position, "index": index, "activation": activation}, labels)
    ]
    error_layer, error_position = (torch.tensor(column) for column in zip(*places, strict=True))
    parts.append(Nodes.build("error", {"layer": error_layer, "position": error_position}, [""] * len(places)))
    columns = {"position": torch.arange(len(PROMPT)), "index": torch.tensor(PROMPT)}
    parts.append(Nodes.build("embedding", columns, [WORDS[each] for each in PROMPT]))
    outcomes = {"layer": torch.full((3,), LAYERS), "position": torch.full((3,), 5), "index": torch.tensor([6, 7, 5])}
    outcomes |= {"probability": torch.tensor([0.7, 0.2, 0.05])}
    parts.append(Nodes.build("logit", outcomes, [" mat", " rug", "</script>"]))
    nodes = Nodes.cat(parts)
    matrix = random_edges(nodes, generator)
    bias = torch.randn(len(matrix), generator=generator)
    values = matrix.sum(1) + bias
    coders = {f"mlp.{layer}": f"mlp_in.{layer}" for layer in range(LAYERS)}
    texts = tuple(WORDS[each] for each in PROMPT)
    origin = Origin("toy", "toy-scope", "the cat sat on the", PROMPT, texts, coders, {})
    return Graph.build(origin, nodes, matrix, bias, values, scope)


def random_edges(nodes: Nodes, generator: torch.Generator) -> torch.Tensor:
    """Edges from lower to higher layers and never to the left, a third of them zero."""
    rows = (nodes.of("feature") | nodes.of("logit")).nonzero()[:, 0]
    allowed = nodes.layer[rows, None] > nodes.layer[None, : nodes.sources]
    allowed &= nodes.position[rows, None] >= nodes.position[None, : nodes.sources]
    matrix = torch.randn(allowed.shape, generator=generator) ** 3
    return matrix * allowed * (torch.rand(allowed.shape, generator=generator) > 0.3)


def make_scope(folder: Path) -> Scope:
    """A scope whose evidence is known: feature i fires on token i of the vocabulary."""
    model = folder / "model"
    model.mkdir()
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<bos>"))
    tokenizer.save(str(model / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<bos>"}
    (model / "tokenizer_config.json").write_text(json.dumps(config))
    (model / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    coders = {}
    for layer in range(LAYERS):
        weights = {"w_enc": torch.randn(LATENTS, 4), "b_enc": torch.zeros(LATENTS)}
        weights |= {"w_dec": torch.randn(LATENTS, 4), "b_dec": torch.zeros(4)}
        coders[f"mlp_in.{layer}"] = Transcoder(Site("mlp_in", layer), Site("mlp_out", layer), ReLU(), weights)
    evidence = {name: make_evidence() for name in coders if name != "mlp_in.2"}
    labels = {name: [f"label {number}" for number in range(LATENTS)] for name in coders}
    return Scope("toy-scope", str(model), coders, [*coders], labels, evidences=evidence)


def make_evidence() -> Evidence:
    ids = (torch.arange(LATENTS) % len(WORDS))[:, None]
    window = torch.cat([torch.full_like(ids, -1), torch.full_like(ids, 1), ids], 1)[:, None]
    return Evidence(
        density=torch.full((LATENTS,), 0.02),
        max_activation=torch.full((LATENTS,), 3.0),
        example_tokens=window,
        example_activations=torch.tensor([0.0, 0.0, 3.0]).expand(LATENTS, 1, 3).contiguous(),
        top_token_ids=torch.cat([ids, torch.full_like(ids, -1)], 1),
        top_token_weights=torch.tensor([2.0, 0.0]).repeat(LATENTS, 1),
        context_token_ids=torch.tensor([2, -1]).repeat(LATENTS, 1),
        following_token_ids=torch.tensor([-1, -1]).repeat(LATENTS, 1),
        top_logit_ids=torch.full_like(ids, 6),
        top_logit_values=torch.full((LATENTS, 1), 1.5),
        bottom_logit_ids=torch.full_like(ids, 7),
        bottom_logit_values=torch.full((LATENTS, 1), -1.25),
    )


@pytest.fixture(scope="session")
def toy_scope(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scope")
    save_scope(make_scope(folder), folder / "scope")
    return folder / "scope"


@pytest.fixture
def toy_graph() -> Graph:
    return make_graph()


@pytest.fixture
def graphs(tmp_path: Path, toy_graph: Graph) -> Path:
    """A folder with one graph called `toy`."""
    toy_graph.save(tmp_path / "graphs" / "toy")
    return tmp_path / "graphs"


@pytest.fixture
def address(graphs: Path, toy_scope: Path) -> Iterator[str]:
    """Where the folder's graphs are served by a real server in this process."""
    server = uvicorn.Server(uvicorn.Config(create_app(graphs, scope=str(toy_scope)), port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    window = Browser(tmp_path_factory.mktemp("chromium"))
    yield window
    window.driver.quit()


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    """A window in its first state; the test fails where the console complained."""
    chromium.driver.get("about:blank")
    chromium.errors(), chromium.requests()
    chromium.prefer("light")
    yield chromium
    assert chromium.errors() == []
