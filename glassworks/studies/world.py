"""Ground truth of the embedded world: is the circuit real, and do edits of features move it?

The world knows, for every city, the concept between question and answer (its state) and the answer (the state's
capital). So a patch or a swap of features is right or wrong, and counted.
"""

from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glassworks import hub, smallworld
from glassworks.coders import Scope, load_scope
from glassworks.edits import Edit, FeatureRef, set_features
from glassworks.errors import BadInput
from glassworks.experiments import Case, Experiment, Patch, exact_match
from glassworks.models import Model, load_model
from glassworks.studies.knowledge import interview, measure


@final
@dataclass(frozen=True, eq=False)
class Cities:
    """One two-hop prompt a city, all of the same wording, so that they differ at one token only.

    Attributes:
        model: the model that reads them.
        names: the cities.
        tokens: ids of the prompts.
        places: number of each city's place.
        held_out: whether the city was kept out of composed training sentences.
        capitals: token id of each place's capital, by the place's number.
        kind: `state` or `country`.
    """

    model: Model
    names: tuple[str, ...]
    tokens: Int[Tensor, "city token"]
    places: Int[Tensor, " city"]
    held_out: Bool[Tensor, " city"]
    capitals: Int[Tensor, " place"]
    kind: str

    @classmethod
    def of(cls, model: Model, kind: str = "state") -> "Cities":
        """Write the prompts of all cities of one kind of place (`state` or `country`)."""
        documents = [
            (document, split == "held_out")
            for split in ("train", "held_out")
            for document in smallworld.two_hop_prompts(split, kind=kind)
        ]
        rows = [model.tokens(document.prompt) for document, _ in documents]
        if len({len(row) for row in rows}) > 1:
            raise BadInput(f"The model {model.name} splits the names of cities; the check needs one token a city.")
        places = _places(kind)
        numbers = {place.name: number for number, place in enumerate(places)}
        cities = [smallworld.find_city(smallworld.truth(document.prompt).subject) for document, _ in documents]
        return cls(
            model=model,
            names=tuple(city.name for city in cities),
            tokens=torch.stack(rows),
            places=torch.tensor([numbers[city.place.name] for city in cities]),
            held_out=torch.tensor([held for _, held in documents]),
            capitals=torch.tensor([model.token_id(place.capital) for place in places]),
            kind=kind,
        )

    def place(self, name: str) -> int:
        """The number of a place, by its name."""
        return [place.name for place in _places(self.kind)].index(smallworld.find_place(name).name)

    @property
    def position(self) -> int:
        """Position of the city's token."""
        return int((self.tokens != self.tokens[0]).any(0).nonzero()[0])

    def answers(self, rows: Int[Tensor, " row"]) -> Int[Tensor, " row"]:
        """The model's first choice on some of the prompts, edits included."""
        logits = self.model.capture(self.tokens[rows], ["logits"], batch_size=len(rows))["logits"]
        return logits[:, -1].argmax(-1)

    def probability(self, rows: Int[Tensor, " row"]) -> Float[Tensor, " row"]:
        """The probability that the model gives to the right capital on some of the prompts, edits included."""
        logits = self.model.capture(self.tokens[rows], ["logits"], batch_size=len(rows))["logits"]
        right = self.capitals[self.places[rows]]
        return logits[:, -1].softmax(-1).gather(1, right[:, None])[:, 0]

    def partners(self, rows: Int[Tensor, " row"], seed: int = 0) -> Int[Tensor, " row"]:
        """A city of another place for each of some cities, drawn by a seed."""
        random = Random(seed)
        others = [(self.places != self.places[row]).nonzero()[:, 0].tolist() for row in rows]
        return torch.tensor([random.choice(cities) for cities in others])


def _places(kind: str) -> list[smallworld.Place]:
    return smallworld.states() if kind == "state" else smallworld.countries()


def accuracy(cities: Cities, held_out: bool) -> float:
    """Share of cities, held out or not, whose capital is the model's first choice."""
    rows = (cities.held_out == held_out).nonzero()[:, 0]
    return _share(cities.answers(rows) == cities.capitals[cities.places[rows]])


def patch_flips(cities: Cities, seed: int = 0) -> float:
    """Share of cities whose answer becomes another place's capital when MLP outputs at the city's token are patched.

    The outputs of all layers at that one position come from a city of the other place; nothing else changes.
    """
    donors = cities.partners(torch.arange(len(cities.names)), seed)
    answers, sources = cities.capitals[cities.places[donors]].tolist(), cities.tokens[donors]
    rows = zip(cities.tokens, answers, sources, strict=True)
    cases = [Case(prompt, answer, source=source) for prompt, answer, source in rows]
    arm = Patch("MLP outputs", cities.model.sites("mlp_out"), cities.position)
    return Experiment(cities.model, cases, [arm], [exact_match()]).run().value("exact match", arm.name)


@final
@dataclass(frozen=True, eq=False)
class Swaps:
    """Which features tell one place from another on the cities' prompts, by layer and position.

    Attributes:
        cities: the prompts.
        scope: the coders; those that replace the MLPs are swapped.
        means: coder id -> mean activation of every feature on the prompts of each place's trained cities.
    """

    cities: Cities
    scope: Scope
    means: dict[str, Float[Tensor, "place token latent"]]

    @classmethod
    def of(cls, cities: Cities, scope: Scope) -> "Swaps":
        """Run the prompts once; held-out cities do not count, so that swaps of them are a fair test."""
        coders = {name: scope[name] for name in scope.replacement}
        values = cities.model.capture(cities.tokens, [coder.reads[0] for coder in coders.values()])
        trained = torch.nn.functional.one_hot(cities.places, len(cities.capitals)) * (~cities.held_out)[:, None]
        weights, means = trained / trained.sum(0).clamp(min=1), {}
        for name, coder in coders.items():
            dense = coder.encode(values[str(coder.reads[0])]).dense()
            means[name] = torch.einsum("cp,ctf->ptf", weights, dense)
        return cls(cities, scope, means)

    def edit(self, source: int, target: int, most: int = 8, random: Random | None = None) -> Edit:
        """Set the features in which two places differ most to their mean values of the target.

        Args:
            source: number of the place that the prompts are about.
            target: number of the place that takes its place.
            most: how many features per layer and position, from the city's token on, at the most.
            random: draws that many other features instead, which get the same values: the control.
        """
        features, values = [], []
        for name, means in self.means.items():
            coder = self.scope[name]
            for position in range(self.cities.position, means.shape[1]):
                change = means[target, position] - means[source, position]
                size = change.abs() * coder.decoder_rows(torch.arange(coder.d_latent)).norm(dim=1)
                chosen = size.topk(min(most, int((size > 0).sum()))).indices
                values += means[target, position, chosen].tolist()
                latents = chosen.tolist() if random is None else random.sample(range(coder.d_latent), len(chosen))
                features += [FeatureRef(name, position, latent) for latent in latents]
        return set_features(features, values, self.scope)

    def flips(self, most: int = 8, draws: int = 3, control: bool = False, seed: int = 0) -> float:
        """Share of held-out cities whose answer becomes exactly the target's capital when features are swapped.

        Args:
            most: features per layer and position.
            draws: how many targets are drawn for each place.
            control: swap random features instead.
            seed: of the draws.
        """
        cities, random = self.cities, Random(seed)
        hits = []
        for source in range(len(cities.capitals)):
            rows = ((cities.places == source) & cities.held_out).nonzero()[:, 0]
            others = [place for place in range(len(cities.capitals)) if place != source]
            for target in random.sample(others, draws if len(rows) else 0):
                with cities.model.edit(self.edit(source, target, most, random if control else None)):
                    hits.append(cities.answers(rows) == cities.capitals[target])
        return _share(torch.cat(hits))

    def silenced(self, most: int = 4, control: bool = False, seed: int = 0) -> float:
        """Mean probability of held-out cities' capitals when the features that tell their place are silenced.

        Args:
            most: features per layer and position, those that are most above their mean over the other places.
            control: silence as many other active features instead.
            seed: of the control's draws.
        """
        cities, random, chances = self.cities, Random(seed), []
        for place in range(len(cities.capitals)):
            rows = ((cities.places == place) & cities.held_out).nonzero()[:, 0]
            if len(rows):
                features = self._telling(place, most, control, random)
                with cities.model.edit(set_features(features, 0.0, self.scope)):
                    chances.append(cities.probability(rows))
        return _share(torch.cat(chances))

    def _telling(self, place: int, most: int, control: bool, random: Random) -> list[FeatureRef]:
        """The features that tell a place, or other active ones."""
        features = []
        for name, means in self.means.items():
            coder, above = self.scope[name], means[place] - (means.sum(0) - means[place]) / (len(means) - 1)
            size = above.clamp(min=0) * coder.decoder_rows(torch.arange(coder.d_latent)).norm(dim=1)
            for position in range(self.cities.position, means.shape[1]):
                chosen = size[position].topk(min(most, int((size[position] > 0).sum()))).indices.tolist()
                if control:
                    active = means[place, position].nonzero()[:, 0].tolist()
                    others = [latent for latent in active if latent not in chosen]
                    chosen = random.sample(others, min(len(chosen), len(others)))
                features += [FeatureRef(name, position, latent) for latent in chosen]
        return features


def check(name: str, count: int = 500) -> dict[str, Any]:
    """Measure a model of the family: accuracies, whether its circuit is real, and what its scope can swap.

    Args:
        name: an embedded name, or a model's folder (its scope lies beside it, `NAME-scope`).
        count: documents per task.
    """
    model = load_model(name)
    cities = Cities.of(model)
    facts: dict[str, Any] = {"model": name, "measured": measure(model, count)}
    if model.tokenizer.chat_template:
        facts["chat"] = interview(model, count)
    facts["patch_flips"] = patch_flips(cities)
    beside = Path(name).with_name(Path(name).name + hub.SUFFIX["scope"])
    if name in (*hub.ALIASES, *hub.embedded("scope")) or beside.is_dir():
        swaps = Swaps.of(cities, load_scope(beside if beside.is_dir() else name))
        facts |= {"scope": swaps.scope.metrics, "swap_flips": swaps.flips(), "random_flips": swaps.flips(control=True)}
        facts |= {"silenced": swaps.silenced(), "random_silenced": swaps.silenced(control=True)}
    return facts


def _share(hits: Tensor) -> float:
    return float(hits.float().mean())
