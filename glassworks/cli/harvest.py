"""`glassworks harvest`: text in, a store of activations out."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glassworks.cli.options import Json, counting, show
from glassworks.errors import BadInput

if TYPE_CHECKING:
    from glassworks.models import Model
    from glassworks.sites import Site

INTERRUPTED = 130


def harvest(
    model: Annotated[str, typer.Argument(help="A folder, an embedded name, or owner/name on the hub.")],
    text: Annotated[list[str], typer.Option("--text", "-t", help="File, folder, address, hf:owner/name; repeatable.")],
    out: Annotated[str, typer.Option("--out", "-o", help="Folder or address (s3://...) of the store.")],
    sites: Annotated[str, typer.Option(help="Kinds or sites, with commas: resid_post,mlp_in.3.")] = "resid_post",
    layers: Annotated[str, typer.Option(help="Layers of the kinds, 0,5-8; all if unset.")] = "",
    column: Annotated[str, typer.Option(help="Where the text of a record is.")] = "text",
    separator: Annotated[str, typer.Option(help="What separates the documents of a text file.")] = "",
    documents: Annotated[int, typer.Option(help="Stop after so many documents.")] = 0,
    rows: Annotated[int, typer.Option(help="Stop after so many rows.")] = 0,
    context: Annotated[int, typer.Option(help="Tokens that the model sees at once.")] = 0,
    packed: Annotated[bool, typer.Option("--packed", help="Fill contexts with one document after the other.")] = False,
    untrained: Annotated[str, typer.Option(help="Positions left out: bos, eos, pad, template.")] = "bos,eos,pad",
    rollouts: Annotated[int, typer.Option(help="Let the model answer the texts, at most so many tokens each.")] = 0,
    temperature: Annotated[float, typer.Option(help="Of the answers; 0 is greedy.")] = 1.0,
    store: Annotated[str, typer.Option(help="How to store: float32, bfloat16 or int8.")] = "bfloat16",
    shard: Annotated[int, typer.Option(help="Megabytes of a shard.")] = 512,
    batch: Annotated[int, typer.Option(help="Tokens in one forward pass.")] = 4096,
    seed: Annotated[int, typer.Option(help="Of the order of rows, and of answers.")] = 0,
    part: Annotated[str, typer.Option(help="Which part of several machines' work this is: 1/4.")] = "1/1",
    verify: Annotated[bool, typer.Option("--verify", help="Check what is there; write anew what is damaged.")] = False,
    dtype: Annotated[str, typer.Option(help="Number type of the model's weights.")] = "float32",
    device: Annotated[str, typer.Option(help="Where the model runs.")] = "cpu",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would take, and write nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Run a model over text once and store its activations, for any number of coders to train from."""
    from glassworks.harvest import Contexts, Corpus, Reading, Sampling, Storing, estimate, write_rollouts
    from glassworks.harvest import harvest as run
    from glassworks.models import load_model

    match = re.fullmatch(r"(\d+)/(\d+)", part)
    share, shares = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= share <= shares:
        raise BadInput(f"The part {part!r} is none; write 2/4 for the second of four.")
    storing = Storing(store, shard << 20, batch, seed, (share, shares), verify)
    reading = Reading(context, packed, tuple(untrained.split(",")) if untrained else (), rows)
    corpus = Corpus(tuple(text), column, separator, documents)
    corpus.plain()  # a missing text is reported before the model is loaded
    loaded = load_model(model, dtype=dtype, device=device)
    chosen = _sites(loaded, sites, layers)
    if dry_run:
        return show({"store": out} | estimate(Contexts(loaded, corpus, reading), chosen, storing, out), as_json)
    try:
        if rollouts:
            if "://" in out:
                raise BadInput("Rollouts are written beside a local store; make them there, then harvest the .jsonl "
                               "file.")  # fmt: skip
            file, sampling = Path(f"{out.rstrip('/')}.rollouts.jsonl"), Sampling(rollouts, temperature, seed)
            with counting("answers") as report:
                write_rollouts(loaded, corpus, file, sampling, lambda tokens: report(tokens, 0))
            corpus = Corpus((str(file),))
        with counting("harvest") as report:
            written = run(loaded, corpus, chosen, out, reading, storing, report)
    except KeyboardInterrupt:
        print("glassworks: interrupted; every whole shard is kept, and the same command goes on.", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    facts: dict[str, Any] = {"store": out, "finished": written is not None}
    if written is not None:
        facts |= {"model": written.model, "rows": written.rows, "shards": len(written.fields["shards"])}
        facts["GB"] = sum(file["bytes"] for file in written.files.values()) / 1e9
        facts["widths"] = written.widths
        facts["mean squared norm"] = {site: written.statistics(site).square for site in written.sites}
    return show(facts, as_json)


def _sites(model: "Model", sites: str, layers: str) -> "list[Site]":
    from glassworks.sites import KINDS, Site

    chosen = [*range(model.n_layers)]
    if layers:
        ranges = [re.fullmatch(r"(\d+)(?:-(\d+))?", text) for text in layers.split(",")]
        if not all(ranges):
            raise BadInput(f"The layers {layers!r} cannot be read; write them like 0,5-8.")
        chosen = [n for one in ranges if one for n in range(int(one[1]), int(one[2] or one[1]) + 1)]
    parsed = []
    for word in sites.split(","):
        whole = "." in word or word not in KINDS or not KINDS[word].layered
        parsed += [Site.parse(word)] if whole else [Site(word, layer) for layer in chosen]
    return list(dict.fromkeys(parsed))
