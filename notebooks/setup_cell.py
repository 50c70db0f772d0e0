# Set-up, the same in every notebook: uses the installed ddpm_lesson, else the checkout around
# this notebook, else a wheel beside it, else fetches it. What is installed stays as it is.
import importlib.util
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch

REPOSITORY = "OWNER/ddpm_lesson"
modules = "ddpm_lesson", "einops", "safetensors", "tqdm", "ipywidgets"
specs = {m: importlib.util.find_spec(m) for m in modules}
there = [m for m, spec in specs.items() if spec and spec.origin]
missing = [m for m in modules[1:] if m not in there]
pip = [sys.executable, "-m", "pip", "install", "--quiet"]
if "ddpm_lesson" not in there:
    marks = "pyproject.toml", "ddpm_lesson/__init__.py"
    folders = [Path.cwd(), *Path.cwd().parents]
    checkouts = [str(f) for f in folders if all((f / mark).exists() for mark in marks)]
    wheels = sorted(map(str, Path.cwd().glob("ddpm_lesson-*.whl")))
    if checkouts:
        sys.path.insert(0, checkouts[0])
    elif not wheels and REPOSITORY.startswith("OWNER/"):
        ways = "upload the course's wheel beside this notebook, or set it: make address REPO=owner/name"
        raise RuntimeError(f"This copy of the course has no address but {REPOSITORY}: {ways}")
    else:
        address = f"https://github.com/{REPOSITORY}/archive/refs/heads/main.zip"
        subprocess.run([*pip, "--no-deps", *(wheels[-1:] or [address])], check=True)
if missing:
    subprocess.run([*pip, *missing], check=True)
importlib.invalidate_caches()


def computes(name):
    try:
        return torch.ones(1, device=name).item() == 1
    except (AssertionError, RuntimeError):  # no such device, or one that this PyTorch cannot use
        return False


device = torch.device(next(filter(computes, ["cuda", "mps"]), "cpu"))
plt.rcParams.update({"figure.dpi": 120, "figure.facecolor": "white"})  # opaque on a dark page
