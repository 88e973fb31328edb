"""Plain TopK autoencoders as prestoj/tinystories_sae saves them: four tensors in `sae_{width}_{k}`.

Trained on the sixth hidden state of TinyStories-1M, which is what its sixth block leaves. The original keeps the k
largest pre-activations even where they are negative; ours never are: that differs where fewer than k are positive.
"""

from functools import partial

from glassworks.coders.activations import TopK
from glassworks.coders.coder import Coder
from glassworks.coders.entries import Entry, Provenance, width_word
from glassworks.coders.files import Files
from glassworks.coders.formats.reading import builder, centred, coder_of, laid_out, read_tensors
from glassworks.sites import Site

PATTERN = r"(?P<name>sae_(?P<width>\d+)_(?:layer)?(?P<k>\d+))\.(?:pt|safetensors)"
SITE = Site("resid_post", 5)
LAYOUT = {"w_enc": "encoder_weights.T", "b_enc": "encoder_bias", "w_dec": "decoder_weights", "b_dec": "pre_bias"}
FORMULA = "a = topk((x - pre_bias) @ encoder_weights + encoder_bias); y = a @ decoder_weights + pre_bias"
NOTE = "the number at the end of the name is k, how many latents are active a token"


def recognise(files: Files) -> bool:
    """Whether a file is named `sae_{width}_{k}`."""
    return bool(files.matching(PATTERN))


def entries(files: Files) -> list[Entry]:
    """One entry a file; nothing is read."""
    found = files.matching(PATTERN)
    return [_entry(files, name, match["name"], int(match["width"]), int(match["k"])) for name, match in found]


def _entry(files: Files, name: str, label: str, width: int, k: int) -> Entry:
    return Entry(
        name=label,
        reads=(SITE,),
        writes=(SITE,),
        kind="sae",
        width=width_word(width),
        l0=str(k),
        target=float(k),
        tags=(),
        bytes=files.size((name,)),
        files=(name,),
        provenance=Provenance("tinystories_topk", FORMULA, "roneneldan/TinyStories-1M", (NOTE,)),
        build=builder(files, label, (name,), partial(_build, files, name, k)),
    )


def _build(files: Files, name: str, k: int) -> Coder:
    return coder_of(SITE, SITE, centred(laid_out(read_tensors(files, name), LAYOUT)), TopK(k))
