"""What the benchmarks share: functions that take turns at the clock, the machine's own rates, the page of tables."""

import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import torch
from torch import Tensor
from torch.nn.functional import conv2d

README = Path(__file__).parent / "README.md"


def take_turns(functions: Sequence[Callable], rounds: int, warm_up: int = 3, device: str = "cpu") -> list[Tensor]:
    """Seconds on the clock and seconds of processor time of each function, (rounds, 2) each.

    The functions take turns, so that whatever else the machine does meets all of them, and the one that begins changes
    from round to round. Processor time is that of all threads of this process: other processes do not lengthen it much.
    """
    found: list[list] = [[] for _ in functions]
    for i in range(warm_up + rounds):
        for j in range(len(functions)):
            k = (i + j) % len(functions)
            clock, processor = time.perf_counter(), time.process_time()
            functions[k]()
            if device == "cuda":
                torch.cuda.synchronize()
            found[k].append((time.perf_counter() - clock, time.process_time() - processor))
    return [torch.tensor(each[warm_up:], dtype=torch.float64) for each in found]


def ratios(ours: Tensor, theirs: Tensor) -> str:
    """Cells of a table: theirs / ours on the clock with its quartiles, and in processor time.  (rounds, 2) each.

    The ratio is taken within a round, for both stood under the same load, and then the median over the rounds.
    """
    low, middle, high = (theirs / ours)[:, 0].quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)).tolist()
    return f"**{middle:.2f}** ({low:.2f}..{high:.2f}) | {(theirs / ours)[:, 1].median():.2f}"


def milliseconds(seconds: Tensor) -> str:
    return f"{1000 * median(seconds[:, 0].tolist()):.1f}"


def rates(device: str = "cpu", dtype: torch.dtype = torch.float32) -> tuple[float, float]:
    """Operations per second that this machine reaches in a matrix multiplication and in a convolution.

    1024 x 1024 matrices; 3x3, 64 to 64 channels, 16 images of side 28 in channels_last. A multiplication and an
    addition are two operations. Of 20 tries the fastest: a limit is what the machine can do, alone.
    """
    a = torch.randn(1024, 1024, device=device, dtype=dtype)
    x = torch.randn(16, 64, 28, 28, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    weight = torch.randn(64, 64, 3, 3, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    work = [lambda: a @ a, lambda: conv2d(x, weight, padding=1)]
    matrices, convolution = (each[:, 0].min().item() for each in take_turns(work, 20, device=device))
    return 2 * 1024**3 / matrices, 2 * x.numel() * 64 * 9 / convolution


def machine(device: str = "cpu") -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")  # Linux: platform knows no more than x86_64 there
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{(models or [platform.processor()])[0]} ({platform.machine()})"


def write(name: str, text: str, page: Path = README) -> None:
    """Put a table between its two markers on the page.  Raises ValueError if the page lacks them or has them twice."""
    first, last = f"<!-- table of {name} -->\n", f"<!-- end of the table of {name} -->\n"
    old = page.read_text(encoding="utf-8")
    if old.count(first) != 1 or old.count(last) != 1:
        raise ValueError(f"{page.name} must hold {first.strip()} and {last.strip()} once each")
    before, rest = old.split(first)
    page.write_text(before + first + text + last + rest.split(last)[1], encoding="utf-8")
