"""Model: a Hugging Face causal language model whose sites can be read and changed.

It binds the room's parts together and computes nothing itself. It must not know coders, features or graphs:
what changes a model arrives as an `Edit`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol, final, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from glassworks.errors import BadInput
from glassworks.models.architectures import Anatomy
from glassworks.models.attention import NAME
from glassworks.models.capture import capture_batch, padded
from glassworks.models.generate import continue_tokens
from glassworks.models.places import kinds, locate
from glassworks.models.replay import replaying, sites_of
from glassworks.models.run import Prompts
from glassworks.models.scoring import Scorer, read_scorer
from glassworks.models.taps import Tap, Taps
from glassworks.models.vocabulary import Prompt, Vocabulary, is_batch
from glassworks.models.weights import Block, Norm, read_block, read_norm
from glassworks.pages import table
from glassworks.sites import KINDS, Site


@dataclass(frozen=True)
class Prediction:
    """One candidate for the next token: what it shows, its id, and its probability."""

    token: str
    id: int
    probability: float


@runtime_checkable
class Edit(Protocol):
    """A change while the model runs, as `Model.edit` takes it."""

    @property
    def reads(self) -> Sequence[Site]:
        """Sites whose clean values it needs where MLP outputs are frozen."""
        ...

    @property
    def frozen(self) -> Sequence[str]:
        """What must stay as it is while it acts: any of `patterns`, `norms` and `mlps`."""
        ...

    @property
    def stepwise(self) -> bool:
        """Whether its taps are right under a key-value cache: see `TapSet`."""
        ...

    def taps(self, model: "Model", clean: Mapping[Site, Tensor] | None) -> Mapping[Site, Tap]:
        """Make the taps that do it.

        Args:
            model: the model that is edited.
            clean: None where MLPs are live; else the values of the clean run (batch, token, width) at `reads`, filled
                anew before every forward, from which the edit's own changes are to be computed.
        """
        ...


@final
class Model:
    """A language model with named sites.

    Example:
        ```python
        model = load_model("smallworld")
        streams = model.capture("The capital of", ["resid_post.0"])["resid_post.0"]   # (token, d_model)
        ```

    Attributes:
        hf: the Hugging Face module; it is what runs, and it is set to evaluation.
        name: what it was loaded as.
        tokenizer: its Hugging Face tokenizer, or None.
        taps: the mechanism that reads and changes activations.
    """

    def __init__(self, hf: PreTrainedModel, tokenizer: Any = None, name: str = "model") -> None:
        """Wrap a Hugging Face causal language model; Unsupported where its family is not in the table."""
        self._anatomy = Anatomy(hf)
        self._config = hf.config.get_text_config()
        self.hf = hf.eval()
        self.hf.set_attn_implementation(NAME)
        self.name = name
        self.tokenizer = tokenizer
        self.taps = Taps(self._anatomy)
        self._vocabulary = Vocabulary(tokenizer, self.vocab_size, self.context_length)

    def __repr__(self) -> str:
        return (
            f"Model({self.name!r}: {self.family}, {self.n_layers} layers, d_model {self.d_model}, "
            f"{self.n_heads} heads ({self.n_kv_heads} key-value) of {self.d_head}, vocabulary {self.vocab_size})"
        )

    def _repr_html_(self) -> str:
        names = ("name", "family", "n_layers", "d_model", "n_heads", "n_kv_heads", "d_head", "d_mlp", "vocab_size",
                 "context_length", "dtype", "device")  # fmt: skip
        return table([{"": name, "model": str(getattr(self, name))} for name in names], words=True)

    @property
    def family(self) -> str:
        """Name of the architecture's family, `gemma3`."""
        return self._anatomy.row.family

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return len(self._anatomy.layers)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self._config.hidden_size)

    @property
    def n_heads(self) -> int:
        """Number of query heads per layer."""
        return int(self._config.num_attention_heads)

    @property
    def n_kv_heads(self) -> int:
        """Number of key-value heads per layer; each serves n_heads / n_kv_heads consecutive query heads."""
        return int(getattr(self._config, "num_key_value_heads", None) or self.n_heads)

    @property
    def d_head(self) -> int:
        """Width of a head."""
        return int(getattr(self._config, "head_dim", None) or self.d_model // self.n_heads)

    @property
    def d_mlp(self) -> int:
        """Width of the MLPs' hidden layer."""
        width = getattr(self._config, "intermediate_size", None) or getattr(self._config, "n_inner", None)
        return int(width or 4 * self.d_model)

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return int(self._config.vocab_size)

    @property
    def context_length(self) -> int:
        """Number of tokens that fit."""
        return int(self._config.max_position_embeddings)

    @property
    def parallel(self) -> bool:
        """Whether attention and MLP of a block both read the stream as it enters the block."""
        return self._anatomy.parallel

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.hf.device

    @property
    def dtype(self) -> torch.dtype:
        """Number type of the weights."""
        return self.hf.dtype

    @property
    def softcap(self) -> float | None:
        """Bend of the logits after the unembedding, softcap * tanh(x / softcap); None where there is none."""
        return getattr(self.hf.config, "final_logit_softcapping", None)

    @property
    def final_norm(self) -> Norm:
        """The norm before the unembedding; its scale is the site `final_norm_scale`."""
        norm = read_norm(self._anatomy.final_norm, self._anatomy.row.gain_offset)
        assert norm is not None
        return norm

    @property
    def unembedding(self) -> tuple[Float[Tensor, "vocab d_model"], Float[Tensor, " vocab"] | None]:
        """Matrix and bias that map the normed final stream to logits before soft-capping."""
        head = self.hf.get_output_embeddings()
        assert isinstance(head, torch.nn.Linear)
        return head.weight.detach(), None if head.bias is None else head.bias.detach()

    def block(self, layer: int) -> Block:
        """The linear parts of one layer: values, output projection and norms."""
        if not 0 <= layer < self.n_layers:
            raise BadInput(f"There is no layer {layer}; the model has layers 0 to {self.n_layers - 1}.")
        return read_block(self._anatomy, layer, self.n_heads, self.n_kv_heads, self.d_head)

    def scorer(self, layer: int, prompt: Prompt) -> Scorer:
        """How one attention layer scores keys for queries on a prompt; costs a run, which tells the rotations."""
        self.block(layer)
        return read_scorer(self._anatomy, layer, self.tokens(prompt), self.n_heads, self.n_kv_heads)

    def sites(self, kind: str | None = None) -> list[Site]:
        """All sites of the model, or those of one kind, in the order of `sites.KINDS` and layers."""
        names = kinds(self._anatomy) if kind is None else [kind]
        return [
            Site(each, layer) for each in names for layer in (range(self.n_layers) if KINDS[each].layered else [None])
        ]

    def width(self, site: Site) -> int:
        """How many numbers a site has at a token; 0 for patterns, which have as many as there are keys.

        Raises:
            NotFound: the model has no such site.
        """
        locate(self._anatomy, site)
        counts = {"d_model": self.d_model, "d_mlp": self.d_mlp, "d_head": self.d_head, "heads": self.n_heads}
        counts |= {"kv_heads": self.n_kv_heads, "vocabulary": self.vocab_size, "key": 0, "1": 1}
        return prod(counts[word] for word in re.split(r" [x*] ", KINDS[site.kind].shape))

    def spans(self, tokens: Sequence[int]) -> list[tuple[int, int]]:
        """The characters of the text that each token shows, first and one after the last; none for special tokens."""
        return self._vocabulary.spans(tokens)

    def tokens(self, prompt: Prompt) -> Int[Tensor, " token"]:
        """Turn a prompt into token ids on the model's device.

        Args:
            prompt: text (special tokens such as BOS are added as the tokenizer does), or ids, used as given.

        Raises:
            BadInput: empty, longer than the context, an id outside the vocabulary, or text without a tokenizer.
        """
        return self._vocabulary.tokens(prompt).to(self.device)

    def token_text(self, token: int | Int[Tensor, ""]) -> str:
        """Tell what a token shows, a leading space kept; `#17` where it shows nothing or there is no tokenizer."""
        return self._vocabulary.text(int(token))

    def token_id(self, text: str) -> int:
        """Find the one token that shows a text: exactly, or else with a space before it, or after it.

        Raises:
            NotFound: the text is no single token.
            BadInput: the model has no tokenizer.
        """
        return self._vocabulary.id(text)

    @contextmanager
    def tapped(self, taps: Mapping[Site, Tap]) -> Iterator[None]:
        """Run functions on the values of sites in every forward of `hf` within the block.

        Args:
            taps: site -> function of the value (batch, token, width...), which returns None, or a replacement of the
                same shape. Of nested blocks the inner one sees what the outer one wrote.

        Raises:
            NotFound: the model has no such site.
        """
        with self.taps.added(taps):
            yield

    @contextmanager
    def edit(self, *edits: Edit, frozen: Sequence[str] = ()) -> Iterator[None]:
        """Change the model within the block.

        Args:
            edits: the changes, in order; blocks can be nested.
            frozen: any of `patterns` (attention), `norms` (scales) and `mlps` (outputs), which keep the values that
                they have without these edits on the same tokens; edits come on top of them. Costs a second run.
                With `mlps` frozen edits change from the clean values, so what is seen are direct effects.
                What an edit itself asks to be frozen is frozen for all edits of the call.
        """
        if not isinstance(frozen, str):
            frozen = tuple(dict.fromkeys([*frozen, *(part for edit in edits for part in edit.frozen)]))
        sites, direct = sites_of(self.taps, frozen), "mlps" in frozen
        with ExitStack() as stack:
            clean = None
            if sites:
                also = [site for edit in edits for site in edit.reads] if direct else []
                clean = stack.enter_context(replaying(self.taps, self.hf, sites, also))
            for edit in edits:
                stack.enter_context(self.taps.added(edit.taps(self, clean if direct else None), edit.stepwise))
            yield

    def capture(
        self,
        prompts: Prompt | Sequence[Prompt] | Int[Tensor, "prompt token"],
        sites: Iterable[str | Site] | str | Site,
        *,
        batch_size: int = 32,
    ) -> dict[str, Tensor]:
        """Run prompts and keep the values at sites.

        Args:
            prompts: one prompt, or several (a list, or a matrix of ids).
            sites: what to keep, `["resid_post.2", "pattern.0"]`, or one site.
            batch_size: how many prompts run at once.

        Returns:
            Site as text -> value: (token, width...) for one prompt; (prompt, token, width...) for several, where
            those of shorter prompts end with nan (patterns have a column of 0 for each token that a prompt lacks).
        """
        several = is_batch(prompts)
        rows = [self.tokens(each) for each in (prompts if several else [prompts])]  # pyright: ignore
        wanted = [Site.parse(each) for each in ([sites] if isinstance(sites, str | Site) else sites)]
        ids, lengths = padded(rows)
        values = capture_batch(self.hf, self.taps, ids, lengths, wanted, batch_size)
        return {str(site): values[site] if several else values[site][0] for site in wanted}

    def predict(self, prompt: Prompt, k: int = 10, position: int = -1) -> list[Prediction]:
        """Rank what comes next.

        Args:
            prompt: text or ids.
            k: how many candidates.
            position: after which token; -1 is the last.
        """
        logits = self.capture(prompt, ["logits"])["logits"]
        if not -len(logits) <= position < len(logits):
            raise BadInput(f"There is no position {position}; the prompt has {len(logits)} tokens.")
        top = torch.softmax(logits[position].float(), dim=-1).topk(min(k, self.vocab_size))
        return [
            Prediction(self.token_text(token), token, probability)
            for token, probability in zip(top.indices.tolist(), top.values.tolist(), strict=True)
        ]

    @torch.no_grad()
    def generate(self, prompt: Prompt, max_new_tokens: int = 20, *, temperature: float | int = 0, seed: int = 0) -> str:
        """Continue a prompt, up to an end token or the end of the context.

        Args:
            prompt: text or ids.
            max_new_tokens: how many tokens to add at most.
            temperature: 0 is greedy.
            seed: of the sampling.

        Returns:
            The text that was added. Tapped models, and those with frozen parts, run every step on the whole text,
            without a cache.
        """
        tokens = self.tokens(prompt)
        most = min(max_new_tokens, self.context_length - len(tokens))
        with self.taps.reading(Prompts((len(tokens),), (0,), tokens[None])):
            added = continue_tokens(self.hf, tokens, most, temperature, seed, self.taps.stepwise)
        return self._vocabulary.decode(added)
