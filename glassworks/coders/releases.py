"""Known releases: a small table of repository patterns, for who does not know what there is.

Nothing is loaded by it: formats recognise files whoever published them. This module must not know any format.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Release:
    """A family of repositories on the hub.

    Attributes:
        repositories: their names, `{a,b}` for alternatives.
        model: what they were trained on.
        holds: the kinds of coders and their sites.
    """

    repositories: str
    model: str
    holds: str


RELEASES = (
    Release(
        "google/gemma-scope-2-{270m,1b,4b,12b,27b}-{pt,it}",
        "Gemma 3",
        "SAEs (resid_post, attn_heads, mlp_out), transcoders (mlp_in), crosscoders; CLTs of 270m and 1b",
    ),
    Release(
        "google/gemma-scope-{2b,9b,27b}-{pt,it}-{res,att,mlp}", "Gemma 2", "SAEs (resid_post, attn_heads, mlp_out)"
    ),
    Release("google/gemma-scope-2b-pt-transcoders", "Gemma 2", "transcoders (mlp_in_pregain)"),
    Release("mwhanna/gemma-scope-2-{270m,1b,4b,12b,27b}-{pt,it}", "Gemma 3", "circuit-tracer's sets of the above"),
    Release("mwhanna/qwen3-{0.6b,1.7b,4b,8b,14b}-transcoders", "Qwen 3", "transcoders (mlp_in), a set a model"),
    Release(
        "mntss/clt-{gemma-2-2b-426k,gemma-2-2b-2.5M,llama-3.2-1b-524k,131k}", "Gemma 2, Llama 3.2, GPT-OSS", "CLTs"
    ),
    Release("EleutherAI/{sae,skip-transcoder}-*", "Llama 3, Pythia and others", "SAEs and transcoders, sparsify"),
    Release("fnlp/Llama3_1-8B-Base-LX{A,M,R}-{8x,32x}", "Llama 3.1 8B", "SAEs (attn_out, mlp_out, resid_post)"),
    Release("fnlp/Llama-Scope-R1-Distill", "DeepSeek-R1-Distill-Llama-8B", "SAEs (resid_post)"),
    Release("andyrdt/saes-{llama-3.1-8b-instruct,qwen2.5-7b-instruct,gpt-oss-20b}", "as named", "SAEs (resid_post)"),
    Release("Qwen/SAE-Res-*-W{32,64,80,128}K-L0_{50,100}", "Qwen 3 and 3.5", "TopK SAEs (resid_post)"),
    Release("Goodfire/Llama-3.{1-8B,3-70B}-Instruct-SAE-l{19,50}", "Llama 3", "one SAE (resid_post)"),
    Release("qresearch/DeepSeek-R1-Distill-Llama-8B-SAE-l19", "DeepSeek-R1-Distill-Llama-8B", "one SAE (resid_post)"),
)
