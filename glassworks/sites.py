"""Sites: the named places of a transformer where an activation can be read or changed.

One table says what each kind means and how wide it is. `models` knows where a site lies in a given
architecture, `coders` only knows its name: this module must know neither.
"""

from dataclasses import dataclass

from glassworks.errors import NotFound, nearest


@dataclass(frozen=True)
class SiteKind:
    """What a kind of site means.

    Attributes:
        meaning: one line for the reader.
        shape: the axes after `token`, in words.
        layered: whether every layer has one (else the model has one).
    """

    meaning: str
    shape: str
    layered: bool = True


KINDS: dict[str, SiteKind] = {
    "embed": SiteKind("residual stream as it enters layer 0: scaled, with position embeddings", "d_model", False),
    "resid_pre": SiteKind("residual stream before the block", "d_model"),
    "attn_in": SiteKind("input of attention: after its norm with gain", "d_model"),
    "q": SiteKind("queries that are scored: after their norm and rotation", "heads x d_head"),
    "k": SiteKind("keys that are scored: after their norm and rotation, one per key-value head", "kv_heads x d_head"),
    "v": SiteKind("values, one per key-value head", "kv_heads x d_head"),
    "pattern": SiteKind("attention weights after softmax, by query position", "heads x key"),
    "attn_heads": SiteKind("input of attention's output projection: the heads side by side", "heads * d_head"),
    "attn_out": SiteKind("what attention adds to the residual stream: after its post-norm", "d_model"),
    "resid_mid": SiteKind("residual stream between attention and MLP; a parallel block has none", "d_model"),
    "mlp_in_pregain": SiteKind("input of the MLP after its norm, before the norm's gain and bias", "d_model"),
    "mlp_in": SiteKind("input of the MLP: after its norm with gain", "d_model"),
    "mlp_neurons": SiteKind("input of the MLP's down projection: its neurons, after the gate", "d_mlp"),
    "mlp_out": SiteKind("what the MLP adds to the residual stream: after its post-norm", "d_model"),
    "resid_post": SiteKind("residual stream after the block", "d_model"),
    "attn_norm_scale": SiteKind("factor of the norm before attention (1 / rms or 1 / sigma)", "1"),
    "attn_post_norm_scale": SiteKind("factor of the norm after attention", "1"),
    "mlp_norm_scale": SiteKind("factor of the norm before the MLP", "1"),
    "mlp_post_norm_scale": SiteKind("factor of the norm after the MLP", "1"),
    "final_norm_scale": SiteKind("factor of the final norm", "1", False),
    "logits": SiteKind("scores of the next token, after any final soft-capping", "vocabulary", False),
}


@dataclass(frozen=True, order=True)
class Site:
    """Where an activation lives: a kind and a layer, written `mlp_in.12` (or `logits`, which has no layer)."""

    kind: str
    layer: int | None = None

    def __post_init__(self) -> None:
        """Raise NotFound for a kind that is not in `KINDS`, or for a layer where the kind has none."""
        if self.kind not in KINDS:
            raise NotFound(f"There is no site kind {self.kind!r}; {nearest(self.kind, KINDS, most=20)}.")
        if KINDS[self.kind].layered != (self.layer is not None):
            right = f"{self.kind}.0" if KINDS[self.kind].layered else self.kind
            raise NotFound(f"The site {self.name!r} is incomplete or too long; write it like {right!r}.")

    @property
    def name(self) -> str:
        """The site as text, `mlp_in.12`."""
        return self.kind if self.layer is None else f"{self.kind}.{self.layer}"

    def __str__(self) -> str:
        return self.name

    @classmethod
    def parse(cls, text: "str | Site") -> "Site":
        """Read a site from `mlp_in.12`; a Site is returned as it is.

        Raises:
            NotFound: the kind does not exist, or the layer is not a whole number >= 0.
        """
        if isinstance(text, Site):
            return text
        kind, dot, layer = text.partition(".")
        if dot and not layer.isdecimal():
            raise NotFound(f"The layer of the site {text!r} must be a whole number >= 0, as in 'mlp_in.12'.")
        return cls(kind, int(layer) if dot else None)


del Site.__dataclass_fields__  # so that the codec writes a site as its name, and not field by field
