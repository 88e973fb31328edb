"""Carry refusal from one model into another that never refuses: other width, other depth, other seed.

    python examples/graft_refusal.py [--quick]

Smallworld-m-it refuses harmful requests. Its circuit for that is cut out of graphs, and runs beside smallworld-l, a
base model that has never seen a conversation. How strongly its nodes count is fitted to eight harmful and eight
harmless requests (a number a node; the table has a single number beside it); what is printed is held out.
"""

import sys

import glassworks as gw
from glassworks import smallworld, transfer
from glassworks.circuits import Circuit, cut, reply_graphs, trace

A, B, LAYERS = "smallworld-m-it", "smallworld-l", (0, 1, 2, 3)
GRAPHS, NODES = 12, 64


def circuit(model: gw.Model, scope: gw.Scope, prompts: list[str], reply: str, against: list[str]) -> Circuit:
    """Cut out what makes a model give a reply, and is not there when it replies otherwise."""
    wanted = reply_graphs(model, scope, prompts[:GRAPHS], reply)
    heads = [(layer, head) for layer in range(model.n_layers) for head in range(model.n_heads)]
    return cut(wanted, NODES, heads, [trace(model, scope, each) for each in against[:GRAPHS]], scope.name)


def setup(count: int = 200) -> transfer.Setup:
    """Models, task, circuit and bridge; the controls' models with them."""
    a, b, scope = gw.load_model(A), gw.load_model(B), gw.load_scope(A)
    task = transfer.world_task(count)
    unknown = [smallworld.chat_prompt(each.user) for each in smallworld.exchanges("unknown", GRAPHS, 3, "train")]
    return transfer.Setup(
        a=a,
        b=b,
        scope=scope,
        circuit=circuit(a, scope, list(task.wanted), task.reply, list(task.unwanted)),
        bridge=transfer.align(a, b, [*task.domain, *task.general], rows="all"),
        task=task,
        layers=LAYERS,
        base=gw.load_model("smallworld"),
        native=gw.load_model("smallworld-l-it"),
        unrelated=circuit(a, scope, unknown, smallworld.IGNORANCE, list(task.unwanted)),
    )


def main() -> None:
    """Print what the graft says, and the table of the whole protocol."""
    quick = "--quick" in sys.argv
    ready = setup(40 if quick else 200)
    print(ready.circuit)
    grafted = transfer.fit_gains(ready.graft, ready.b, ready.task.demonstrations(8, 0), transfer.Fitting("node"))
    for prompt in [each for name in ("wanted", "unwanted") for each in ready.task.tests[name][0][:5]]:
        clean = ready.b.generate(prompt, 8)
        with ready.b.edit(grafted):
            request = prompt.splitlines()[1].removesuffix("<end_of_turn>")
            print(f"{request:50} {clean!r:32} -> {ready.b.generate(prompt, 8)!r}")
    if not quick:
        found = transfer.evaluate(ready, report=lambda name: print(f"... {name}", file=sys.stderr))
        for row in found.rows:
            rates = ", ".join(f"{name} {each[0]:.2f}" for name, each in row.rates.items())
            print(f"{row.name:40}{rates}, KL {row.kl[0]:.4f}")
        print("\n" + "\n".join(found.verdict))


if __name__ == "__main__":
    main()
