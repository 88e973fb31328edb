"""The page of a transfer: the verdict, bars with intervals, and every figure in a table; one HTML file."""

from html import escape

from glassworks.pages import PICTURE_STYLE, document, interval_bars, table
from glassworks.transfer.protocol.evaluate import Evaluation, Row

TEXT = "; ".join(
    (
        "Bars are shares of held-out prompts whose greedy reply begins with the behaviour's words",
        "whiskers are 95 % bootstrap intervals over splits and prompts",
    )
)


def page(found: Evaluation) -> str:
    """Show what the protocol found."""
    facts = found.facts
    title = f"{facts['behaviour']}: {facts['a']} carried into {facts['b']}"
    said = "".join(f"<p>{escape(each)}</p>" for each in found.verdict)
    sets = list(found.rows[0].rates) if found.rows else []
    pictures = "".join(
        f"<figure><figcaption>{escape(name)}</figcaption>"
        f"{interval_bars([(row.name, row.rates[name]) for row in found.rows])}</figure>"
        for name in sets
    )
    groups = [{"supernode": name, **rates} for name, rates in found.groups.items()]
    columns = list(dict.fromkeys(name for row in groups for name in row))
    probes = list(dict.fromkeys(name for row in found.rows for name in row.probes))
    figures = [_figures(row) for row in found.rows]
    body = [PICTURE_STYLE, WIDER, said, f'<p class="note">{TEXT}.</p><div class="panels wide">{pictures}</div>']
    body += ["<h2>Figures</h2>", table(figures, list(figures[0]) if figures else [])]
    body += ["<h2>Probes of what the model could do before</h2>"]
    body += [table([{"system": row.name, **row.probes} for row in found.rows], ["system", *probes])]
    body += ["<h2>Supernodes, left out and alone</h2>", table(groups, columns)]
    settings = [{"setting": name, "value": str(value)} for name, value in facts.items()]
    body += ["<h2>Settings</h2>", table(settings, ["setting", "value"]), RISK]
    return document(title, body)


WIDER = "<style>.wide { grid-template-columns: repeat(auto-fit, minmax(30rem, 1fr)); }</style>"
RISK = (
    '<p class="note">What carries a behaviour into a model can also take one away. This report adds a behaviour and '
    "says how it was made; see the documentation on risks.</p>"
)


def _figures(row: Row) -> dict[str, object]:
    rates = {name: _told(each) for name, each in row.rates.items()}
    odds = {f"log-odds {name}": each for name, each in row.odds.items() if name in ("wanted", "unwanted")}
    return {"system": row.name, **rates, "gap": _told(row.gap), **odds, "KL": _told(row.kl, 4), "loss": row.loss[0]}


def _told(interval: tuple[float, float, float], places: int = 2) -> str:
    mean, low, high = (f"{each:.{places}f}" for each in interval)
    return f"{mean} [{low}, {high}]"
