# Set-up, the same in every notebook: uses the installed ddpm_lesson, else the checkout
# around this notebook, else fetches it. torch and numpy stay as they are.
import importlib.util
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch

REPOSITORY = "OWNER/ddpm_lesson"
specs = {m: importlib.util.find_spec(m) for m in ("ddpm_lesson", "einops", "safetensors", "tqdm")}
missing = [module for module, spec in specs.items() if spec is None or spec.origin is None]
if "ddpm_lesson" in missing:
    marks = "pyproject.toml", "ddpm_lesson/__init__.py"
    folders = [Path.cwd(), *Path.cwd().parents]
    checkouts = [str(f) for f in folders if all((f / mark).exists() for mark in marks)]
    if checkouts:
        sys.path.insert(0, checkouts[0])
    else:
        missing[0] = f"https://github.com/{REPOSITORY}/archive/refs/heads/main.zip"
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        subprocess.run([*pip, *missing], check=True)
        importlib.invalidate_caches()
on_gpu, on_mac = torch.cuda.is_available(), torch.backends.mps.is_available()
device = torch.device("cuda" if on_gpu else "mps" if on_mac else "cpu")
plt.rcParams.update({"figure.dpi": 120, "figure.facecolor": "white"})  # opaque on a dark page
