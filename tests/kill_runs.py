"""Kill runs at random moments, and start them in parallel: they must leave, bit by bit, what an undisturbed run leaves.

    python tests/kill_runs.py [--kills N] [--starts N] [--steps N] [--seed N]

For each of several recipes: a run that nothing disturbs; then the same one, killed with signal 9 again and again, each
time before its end, and gone on with; then many processes that start it at once, of which one works and the others give
way. Prints what was done, and ends with 1 if weights, state or log differ anywhere. It takes some ten minutes on two
cores; tests/test_runs.py does less of the same.
"""

import argparse
import csv
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

from ddpm_lesson.experiments.checkpoints import load_tensors
from ddpm_lesson.experiments.recipes import Recipe

TINY = {"T": 5, "ch": 8, "ch_mult": (1,), "attn": (), "num_groups": 4, "batch_size": 4, "lr": 1e-3, "ema_decay": 0.9}
RECIPES = {  # between them all that is random or remembered
    "hybrid": {"conditional": True, "label_dropout": 0.3, "dropout": 0.2, "timesteps": "loss_second_moment", "T": 2}
    | {"loss": "hybrid", "var_type": "learned_range", "optimizer": "adamw", "weight_decay": 0.1, "warmup": 7},
    "accumulate": {"accumulate": 2, "dropout": 0.1, "rate": "cosine", "timesteps": "antithetic", "attn": (0,)},
    "previous": {"condition": "previous", "mean_type": "v", "offset_noise": 0.1},
    "low_res": {"condition": "low_res", "mean_type": "v", "var_type": "fixedsmall", "warmup": 3},
}
OPTIONS = ["--save-every", 3, "--preview-every", 9, "--device", "cpu", "--threads", 1]
FILES = ("recipe.json", "state.safetensors", "weights.safetensors")


class Process:
    """A command line in a process of its own.  number: of the process; log: the file of what it prints."""

    def __init__(self, server, number: int, log: Path):
        self.server, self.number, self.log = server, number, log

    def kill(self) -> None:
        os.kill(self.number, signal.SIGKILL)

    def ended(self, patience: float = 300) -> int:
        """Wait. Returns the exit status, or minus the signal; what has not ended after so many seconds is killed."""
        timer = threading.Timer(patience, self.kill)
        timer.start()
        try:
            self.server.stdin.write(json.dumps({"wait": self.number}) + "\n")
            self.server.stdin.flush()
            return int(self.server.stdout.readline())
        finally:
            timer.cancel()


@contextmanager
def launcher():
    """start(arguments, log, call=, environment=) -> Process; quick: forks of one that has imported everything."""
    place = Path(__file__).with_name("launcher.py")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    with subprocess.Popen([sys.executable, place], **options) as server:

        def start(arguments, log, **more) -> Process:
            server.stdin.write(json.dumps({"arguments": [str(a) for a in arguments], "log": str(log), **more}) + "\n")
            server.stdin.flush()
            return Process(server, int(server.stdout.readline()), log)

        yield start
        server.stdin.close()


def log_of(folder: Path) -> list[list[str]]:
    """All columns of the log but the seconds, which must grow."""
    with open(folder / "log.csv", newline="") as file:
        rows = list(csv.reader(file))[1:]
    seconds = [float(row[3]) for row in rows]
    assert seconds == sorted(seconds)
    return [row[:3] for row in rows]


def differences(folder: Path, whole: Path) -> list[str]:
    """The names of what is not bit by bit that of the undisturbed run."""
    found = [name for name in FILES if (folder / name).read_bytes() != (whole / name).read_bytes()]
    previews = [sorted(path.name for path in (each / "previews").iterdir()) for each in (folder, whole)]
    names = [] if previews[0] == previews[1] else ["previews"]
    partial = [path.name for path in folder.iterdir() if path.suffix == ".partial"]
    return found + names + partial + ([] if log_of(folder) == log_of(whole) else ["log.csv"])


def saved_step(folder: Path) -> int:
    state = folder / "state.safetensors"
    return load_tensors(state)[1]["step"] if state.exists() else 0


def rows_of(folder: Path) -> int:
    log = folder / "log.csv"
    return max(log.read_bytes().count(b"\n") - 1, 0) if log.exists() else 0


def kill_again_and_again(start, arguments, folder: Path, kills: int, steps: int, draw: random.Random) -> list[int]:
    """Kill the run so many times, each before its end, and let it end. Returns the saved steps at the kills."""
    seen: list[int] = []
    while len(seen) < kills:
        begun = saved_step(folder)
        process = start(arguments, folder.with_suffix(".printed"))
        goal = begun + draw.randrange(max(min(9, steps - begun - 2), 1))  # near the end it is killed near its start
        end = time.monotonic() + 120
        while rows_of(folder) < goal and time.monotonic() < end:
            time.sleep(0.002)
        time.sleep(draw.random() * draw.choice([0.003, 0.03, 0.1]))
        process.kill()
        status = process.ended()
        if status != -signal.SIGKILL:
            raise SystemExit(f"{folder}: the run ended with {status} before its kill: more --steps are needed")
        seen.append(saved_step(folder))
        if seen[-1] >= steps:
            raise SystemExit(f"{folder}: the run was done before its kill: more --steps are needed")
    assert start(arguments, folder.with_suffix(".printed")).ended() == 0
    return seen


def start_at_once(start, arguments, folder: Path, starts: int) -> tuple[int, int, int]:
    """Start the same command so many times. Returns how many worked, found it done, and gave way."""
    processes = [start(arguments, folder.with_suffix(f".printed{i}")) for i in range(starts)]
    ended = [process.ended() for process in processes]
    printed = [process.log.read_text() for process in processes]
    assert not any("Traceback" in text for text in printed), printed
    worked = sum("Done: " in text for text in printed)
    done = sum("Already finished: " in text for text in printed)
    busy = sum(f" works in {folder}: wait until it ends" in text for text in printed)
    assert ended.count(0) == worked + done and ended.count(1) == busy and worked + done + busy == starts, printed
    return worked, done, busy


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill runs and start them in parallel; compare what they leave.")
    for name, default in (("kills", 40), ("starts", 20), ("steps", 60), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"[{default}]")
    options = parser.parse_args()
    wrong, place = [], Path(tempfile.mkdtemp())
    print(f"{options.kills} kills and {options.starts} parallel starts, {options.steps} steps, in {place}", flush=True)
    with launcher() as start:
        for i, (name, changes) in enumerate(RECIPES.items()):
            recipe = place / f"{name}.json"
            recipe.write_text(Recipe(**{**TINY, **changes, "steps": options.steps}).to_json())
            whole, killed, parallel = (place / f"{name}_{kind}" for kind in ("whole", "killed", "parallel"))
            command = lambda folder, recipe=recipe: ["train", "--recipe", recipe, "--out", folder, *OPTIONS]  # noqa: E731
            assert start(command(whole), whole.with_suffix(".printed")).ended() == 0
            kills, starts = (
                n * (i + 1) // len(RECIPES) - n * i // len(RECIPES) for n in (options.kills, options.starts)
            )
            draw = random.Random(f"{options.seed} {name}")
            seen = kill_again_and_again(start, command(killed), killed, kills, options.steps, draw)
            found = differences(killed, whole)
            told = "bit by bit the same" if not found else f"DIFFERENT: {', '.join(found)}"
            print(f"{name}: killed {len(seen)} times, saved by then {seen}: {told}", flush=True)
            worked, done, busy = start_at_once(start, command(parallel), parallel, starts)
            beside = differences(parallel, whole)
            told = "bit by bit the same" if not beside else f"DIFFERENT: {', '.join(beside)}"
            print(
                f"{name}: {starts} starts, {worked} worked, {busy} gave way, {done} found it done: {told}", flush=True
            )
            wrong += found + beside
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
