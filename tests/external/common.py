"""What the writers share; runs in the libraries' environment and knows nothing of Glassworks."""

import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

D, F, TOKENS = 16, 96, 40


def fresh(folder: Path) -> Path:
    """An empty folder for one case's release."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "release").mkdir(parents=True)
    return folder / "release"


def randomize(module: torch.nn.Module) -> torch.nn.Module:
    """Move every parameter away from its neutral value; thresholds are positive."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            value = torch.randn_like(parameter) * (0.3 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5)
            parameter.copy_(value.abs() if "threshold" in name else value)
    return module


def record(folder: Path, x: torch.Tensor, latents: torch.Tensor, reconstruction: torch.Tensor) -> None:
    """Keep what the library computed."""
    tensors = {"x": x, "latents": latents, "reconstruction": reconstruction}
    save_file(
        {name: value.detach().float().contiguous() for name, value in tensors.items()}, folder / "reference.safetensors"
    )
