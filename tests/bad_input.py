"""The table of bad input: what a user can get wrong, and the sentence that says so. test_bad_input.py runs every row.

    python tests/bad_input.py --write        writes docs/errors.md from the table

A row has a group, a command line or a call in Python, what the sentence must hold ("..." stands for anything), and what
becomes of it: an exit status, or RAISES or WARNS of a call; DONE is a command that ends well, and says what it found.
{name} is a file or folder that `MADE` of bad_files.py makes. Sentences stand here only.
"""

import sys
from pathlib import Path
from typing import NamedTuple

PAGE = Path(__file__).resolve().parent.parent / "docs" / "errors.md"


RAISES, WARNS, DONE = 0, -1, -2  # instead of an exit status: calls in Python, and a command that ends well
ENDS = {RAISES: "raises", WARNS: "warns", DONE: "0"}


class Row(NamedTuple):
    group: str
    call: str
    told: str
    status: int = 1


ROWS: list[Row] = []


def add(group: str, *rows: tuple[str, str] | tuple[str, str, int], start: str = "", status: int = 1) -> None:
    """Rows of one group. start: what each call begins with."""
    for call, told, *own in rows:
        ROWS.append(Row(group, f"{start} {call}".strip(), told, *(own or [status])))


# The command line itself.

add(
    "Commands",
    ("", "the following arguments are required: train | status | sample | evaluate | export | grade"),
    ("dance", "invalid choice: 'dance' (choose from ...train"),
    ("Train", "invalid choice: 'Train'"),
    ("train --speed 9", "unrecognized arguments: --speed 9"),
    ("train digits", "unrecognized arguments: digits"),
    ("sample 5", "unrecognized arguments: 5"),
    ("evaluate digits_ddpm", "unrecognized arguments: digits_ddpm"),
    ("train --preset", "argument --preset: expected one argument"),
    ("train --out", "argument --out: expected one argument"),
    ("sample --weights", "argument --weights: expected one argument"),
    ("train --preset celeba", "argument --preset: invalid choice: 'celeba' (choose from ...digits"),
    ("train --flip yes", "unrecognized arguments: yes"),
    ("train --conditional=1", "ignored explicit argument '1'"),
    status=2,
)
add(
    "Devices and threads",
    ("train --preset digits --device abacus", "--device abacus cannot be used on this machine, expected cpu, or a GPU"),
    ("sample --device abacus", "--device abacus cannot be used on this machine"),
    ("evaluate --device abacus", "--device abacus cannot be used on this machine"),
    ("sample --device cuda:99", "--device cuda:99 cannot be used on this machine"),
    ("sample --device ''", "--device...cannot be used on this machine, ...: Device string must not be empty"),
)
for command in ("train", "sample", "evaluate"):
    add(
        "Devices and threads",
        ("--threads 0", "argument --threads: expected a number of threads in 1..., got 0"),
        ("--threads -2", "argument --threads: expected a number of threads in 1..., got -2"),
        ("--threads two", "argument --threads: expected a number of threads in 1..., got two"),
        start=command,
        status=2,
    )

# train.

add(
    "train: what to begin with",
    ("train", "say what to train: --preset digits | ..., --recipe FILE, --from NAME, or options; see --help"),
    ("train --preset digits --recipe x.json", "give --preset or --recipe, not both"),
    ("train --recipe none.json", "there is no recipe none.json: name a recipe.json, such as a run has saved"),
    ("train --recipe {folder}", "a recipe must be a file, got the folder"),
    ("train --recipe {weights}", "{weights}: a recipe must be JSON"),
    ("train --recipe {binary}", "a recipe must be JSON, which is text, got bytes that are none: name another file"),
    ("train --recipe {long}", "a recipe must be a file of at most 1,048,576 bytes, got more in"),
    ("train --out {foreign}", "say what to train: --preset"),
    ("train --preset digits --out {foreign}", "holds other files and no run: name an empty or a new folder"),
    ("train --preset digits --out {file}", "{file} cannot be made (a file lies there): name another folder"),
    ("train --preset digits --out {file}/run", "{file}/run cannot be made (Not a directory): name another folder"),
    ("train --preset digits --out {run}", "holds a run of another recipe (T = 6, now 1000, ...): name another folder"),
    ("train --out {run} --seed 1", "holds a run of another recipe (seed = 0, now 1)"),
    ("train --out {run} --lr 0.1", "holds a run of another recipe (lr = 0.001, now 0.1)"),
    ("train --out {run} --mean-type v", "holds a run of another recipe (mean_type = epsilon, now v)"),
    ("train --out {run} --steps 1", "holds a run of another recipe (steps = 2, now 1)"),
    ("train --out {run_cut_state}", "is no whole safetensors file"),
    ("train --out {run_bad_recipe}", "a recipe must be JSON, got text that is not"),
    ("train --out {run_binary_recipe}", "a recipe must be JSON, which is text, got bytes that are none"),
)
for option in ("save-every", "preview-every"):
    add(
        "train: what to begin with",
        (f"train --preset digits --{option} 0", f"argument --{option}: expected a positive integer, got 0"),
        (f"train --preset digits --{option} -5", f"argument --{option}: expected a positive integer, got -5"),
        (f"train --preset digits --{option} often", f"argument --{option}: expected a positive integer, got often"),
        (f"train --preset digits --{option} 1.5", f"argument --{option}: expected a positive integer, got 1.5"),
        status=2,
    )

COUNTS = {  # option: a number below its range, one above, the range as the sentence has it
    "T": ("0", "100001", "1..100000"),
    "ch": ("1", "5000", "2..4096"),
    "num-res-blocks": ("0", "65", "1..64"),
    "num-groups": ("0", "5000", "1..4096"),
    "num-heads": ("-1", "5000", "1..4096"),
    "steps": ("0", "1000000000001", "1..1000000000000"),
    "batch-size": ("0", "1000000000001", "1..1000000000000"),
    "accumulate": ("0", "1000000000001", "1..1000000000000"),
    "warmup": ("-1", "1000000000001", "0..1000000000000"),
    "seed": ("-1", "9223372036854775808", "0..9223372036854775807"),
    "low-res-factor": ("1", "1025", "2..1024"),
    "size": ("0", "8193", "1..8192"),
}
for option, (low, high, within) in COUNTS.items():
    start, field = f"train --preset digits --{option}", option.replace("-", "_")
    expected = f"{field} must be an integer in {within}"
    add("train: counts", (low, f"{expected}..., got {low}"), (high, f"{expected}..., got {high}"), start=start)
    told = f"argument --{option}: invalid int value:"
    add("train: counts", ("many", f"{told} 'many'"), ("1.5", f"{told} '1.5'"), start=start, status=2)

NUMBERS = {
    "lr": ("-0.1", "inf", "0..1e+300"),
    "weight-decay": ("-1", "inf", "0..1e+300"),
    "offset-noise": ("-0.1", "inf", "0..1e+300"),
    "dropout": ("-0.1", "1.1", "0..1"),
    "label-dropout": ("-0.1", "2", "0..1"),
    "ema-decay": ("-0.5", "1.5", "0..1"),
    "clip-norm": ("-1", "nan", "0..inf"),
}
for option, (low, high, within) in NUMBERS.items():
    start, field = f"train --preset digits --{option}", option.replace("-", "_")
    expected = f"{field} must be a number in {within}, got"
    values = dict.fromkeys((low, high, "nan"))
    add("train: numbers", *((value, f"{expected} {float(value)}") for value in values), start=start)
    add("train: numbers", ("much", f"argument --{option}: invalid float value: 'much'"), start=start, status=2)

NAMES = {  # option: a likely mistake, a name that it may have
    "data": ("imagenet", "cifar10"),
    "schedule": ("lineal", "cosine"),
    "mean-type": ("eps", "epsilon"),
    "var-type": ("fixed", "fixedlarge"),
    "loss": ("mse", "huber"),
    "weighting": ("snr", "min_snr"),
    "timesteps": ("random", "uniform"),
    "optimizer": ("sgd", "adamw"),
    "rate": ("linear", "cosine"),
    "condition": ("image", "low_res"),
    "channels": ("2", "3"),
}
for option, (wrong, right) in NAMES.items():
    told = f"argument --{option}: invalid choice: ...{wrong}... (choose from ...{right}"
    add("train: names", (f"train --{option} {wrong}", told), status=2)
    add("train: names", (f"train --{option} ''", f"argument --{option}: invalid"), status=2)

add(
    "train: levels of the network",
    ("--ch-mult 0", "ch_mult must be a list of integers, at most 16 and each in 1..1024, got [0]"),
    ("--ch-mult 1 -2", "ch_mult must be a list of integers, at most 16 and each in 1..1024, got [1, -2]"),
    ("--ch-mult 2000", "ch_mult must be a list of integers, at most 16 and each in 1..1024, got [2000]"),
    ("--ch-mult" + 17 * " 1", "ch_mult must be a list of integers, at most 16 and each in 1..1024, got [1, 1"),
    ("--ch-mult --attn", "ch_mult must hold a positive integer for each level, got []"),
    ("--ch-mult 1 1 1 1 1", "ch_mult of 5 levels needs sides divisible by 16, got 8 x 8"),
    ("--patch-size 8", "ch_mult of 2 levels and patch_size = 8 need sides divisible by 16, got 8 x 8"),
    ("--patch-size 0", "patch_size must be an integer in 1..64, got 0"),
    ("--attn -1", "attn must be a list of integers, at most 16 and each in 0..15, got [-1]"),
    ("--attn 16", "attn must be a list of integers, at most 16 and each in 0..15, got [16]"),
    ("--attn 2", "attn must name levels in 0..1, got [2]"),
    ("--ch 33", "ch must be even, for the time table is half sines and half cosines, got 33"),
    ("--num-groups 5", "channels must be divisible by num_groups = 5, got 32 channels"),
    ("--num-heads 7", "channels must be divisible by num_heads = 7, got"),
    ("--ch 4096 --ch-mult 1 1024", "training a network of ... numbers needs ... GiB, this machine has ...: lower ch"),
    ("--batch-size 2000", "batch_size must lie in 1..1415, got 2000: there are 1415 images, give another one"),
    start="train --preset digits",
)
add(
    "train: levels of the network",
    ("--ch-mult one", "argument --ch-mult: invalid int value: 'one'"),
    ("--ch-mult 1,2", "argument --ch-mult: invalid int value: '1,2'"),
    ("--attn first", "argument --attn: invalid int value: 'first'"),
    start="train --preset digits",
    status=2,
)
add(
    "train: options that contradict each other",
    ("--preset digits --flip", "flip would turn digits into signs that do not exist: leave it out"),
    ("--preset mnist --flip", "flip would turn mnist into signs that do not exist: leave it out"),
    ("--preset digits --loss simple", "learned and learned_range need the loss hybrid or kl, ...; got var_type"),
    ("--preset digits --var-type fixedlarge", "hybrid needs one of them; got var_type = fixedlarge, loss = hybrid"),
    ("--data digits --var-type learned", "learned and learned_range need the loss hybrid or kl"),
    ("--preset digits --weighting p2", "the loss hybrid has its own weights: weighting must be simple, got p2"),
    ("--preset digits --weight-decay 0.1", "weight_decay = 0.1 needs optimizer adamw, got adam"),
    ("--preset digits --zero-snr", "zero_snr needs mean_type xstart, xprev or v, ...; got epsilon, T = 1000"),
    ("--preset digits_v --T 1", "zero_snr needs mean_type ..., and T >= 2; got v, T = 1"),
    (
        "--preset digits --schedule jsd",
        "schedule jsd ends at alphas_bar = 0, ...: mean_type must be xstart, xprev or",
    ),
    ("--preset digits --low-res-factor 4", "low_res_factor = 4 needs condition low_res, got none"),
    ("--preset digits_upscale --low-res-factor 3", "low_res_factor ...3"),
    ("--preset digits --ema-decay 1", "ema_decay must lie below 1 and clip_norm above 0, got ema_decay = 1.0"),
    ("--preset digits --clip-norm 0", "ema_decay must lie below 1 and clip_norm above 0, got ...clip_norm = 0.0"),
    ("--preset digits --size 16", "data 'folder' needs size, other data have theirs: got digits, size = 16"),
    ("--preset digits --data folder", "data 'folder' needs size"),
    start="train",
)
add(
    "train: folders of images",
    ("--preset folder", "data 'folder' needs root, the folder of your images, got None"),
    ("--preset folder --root nowhere", "there is no folder ...nowhere: expected that of the images (--root)"),
    ("--preset folder --root {file}", "got the file {file}"),
    ("--preset folder --root {empty}", "no images in {empty}: looked for names that end in ....bmp"),
    ("--preset folder --root {texts}", "no images in {texts}: looked for names that end in"),
    ("--preset folder --root {hidden}", "no images in {hidden}"),
    ("--preset folder --root {mixed}", "has images both in sub-folders, one per class, and outside of them: loose.png"),
    ("--preset folder --root {images} --size 7", "needs sides divisible by 4, got 7 x 7"),
    (
        "--preset folder --root {images} --size 8192 --batch-size 2",
        "a step of 2 images needs more than ... GiB, cpu has ... GiB: lower batch_size",
    ),
    ("--preset folder --root {images}", "batch_size must lie in 1..2, got 64"),
    ("--data folder --size 8", "data 'folder' needs root"),
    ("--data folder --root {images}", "data 'folder' needs size"),
    ("--preset folder --root ''", "--root must name the folder of your images, got an empty name"),
    start="train",
)

# Recipes as files.

JSON = {  # the name of a file that holds this text: what is said of it
    "recipe_empty": ("", "a recipe must be JSON, got text that is not"),
    "recipe_words": ("learning rate 3", "a recipe must be JSON, got text that is not"),
    "recipe_python": ("{'lr': 1}", "a recipe must be JSON, got text that is not"),
    "recipe_comma": ('{"lr": 1,}', "a recipe must be JSON, got text that is not"),
    "recipe_cut": ('{"lr": 0.1, "T', "a recipe must be JSON, got text that is not"),
    "recipe_two": ('{"lr": 1}{"T": 1}', "a recipe must be JSON, got text that is not: Extra data"),
    "recipe_list": ("[1]", "a recipe must be a JSON object, got list"),
    "recipe_number": ("3", "a recipe must be a JSON object, got int"),
    "recipe_null": ("null", "a recipe must be a JSON object, got NoneType"),
    "recipe_text": ('"digits"', "a recipe must be a JSON object, got str"),
    "recipe_twice": ('{"lr": 1, "lr": 2}', "a recipe must give each name once, got several times: lr"),
    "recipe_unknown": ('{"learning_rate": 1}', "unknown in a recipe: learning_rate; it may have data, root, size"),
    "recipe_deep": ("[" * 100_000, "got lists nested too deep"),
    "recipe_deep_objects": ('{"a":' * 50_000, "got lists nested too deep"),
    "recipe_deep_value": ('{"lr": ' + "[" * 50_000, "got lists nested too deep"),
    "recipe_401_digits": ('{"lr": 1' + "0" * 400 + "}", "integers of at most 64 bits, got one of 401 digits"),
    "recipe_9001_digits": ('{"steps": 1' + "0" * 9000 + "}", "integers of at most 64 bits, got one of 9001 digits"),
    "recipe_minus_digits": ('{"seed": -1' + "0" * 40 + "}", "integers of at most 64 bits, got one of 42 digits"),
    "recipe_infinite": ('{"lr": 1e999}', "lr must be a number in 0..1e+300, got inf"),
    "recipe_nan": ('{"lr": NaN}', "lr must be a number in 0..1e+300, got nan"),
    "recipe_nul": ('{"data": "dig\\u0000its"}', "data must be one of digits, ..., got 'dig\\x00its'"),
    "recipe_surrogate": ('{"data": "\\ud800"}', "data must be one of digits"),
    "recipe_long_text": ('{"data": "' + "x" * 9999 + '"}', "data must be one of digits, ..., got 'xxx...xxx'"),
    "recipe_long_name": ('{"' + "x" * 9999 + '": 1}', "unknown in a recipe: xxx... ...xxx; it may have"),
    "recipe_T_text": ('{"T": "1000"}', "T must be an integer in 1..100000, got '1000'"),
    "recipe_T_fraction": ('{"T": 10.0}', "T must be an integer in 1..100000, got 10.0"),
    "recipe_T_true": ('{"T": true}', "T must be an integer in 1..100000, got True"),
    "recipe_T_null": ('{"T": null}', "T must be an integer in 1..100000, got None"),
    "recipe_T_list": ('{"T": [1000]}', "T must be an integer in 1..100000, got [1000]"),
    "recipe_T_object": ('{"T": {"a": 1}}', "T must be an integer in 1..100000, got {'a': 1}"),
    "recipe_lr_text": ('{"lr": "1e-3"}', "lr must be a number in 0..1e+300, got '1e-3'"),
    "recipe_lr_true": ('{"lr": true}', "lr must be a number in 0..1e+300, got True"),
    "recipe_lr_list": ('{"lr": [0.1]}', "lr must be a number in 0..1e+300, got [0.1]"),
    "recipe_flip_1": ('{"flip": 1}', "flip must be bool, got 1"),
    "recipe_flip_text": ('{"flip": "true"}', "flip must be bool, got 'true'"),
    "recipe_root_5": ('{"root": 5}', "root must be str | None, got 5"),
    "recipe_root_list": ('{"root": ["a"]}', "root must be str | None, got ['a']"),
    "recipe_size_text": ('{"size": "32"}', "size must be an integer in 1..8192 or None, got '32'"),
    "recipe_channels_text": ('{"channels": "3"}', "channels must be one of 1, 3, got '3'"),
    "recipe_channels_true": ('{"channels": true}', "channels must be one of 1, 3, got True"),
    "recipe_loss_list": ('{"loss": ["simple"]}', "loss must be one of simple, ..., got ['simple']"),
    "recipe_schedule_object": ('{"schedule": {}}', "schedule must be one of linear, ..., got {}"),
    "recipe_ch_mult_2": ('{"ch_mult": 2}', "ch_mult must be a list of integers, ..., got 2"),
    "recipe_ch_mult_text": ('{"ch_mult": "1,2"}', "ch_mult must be a list of integers, ..., got '1,2'"),
    "recipe_ch_mult_fraction": ('{"ch_mult": [1, 2.0]}', "ch_mult must be a list of integers, ..., got [1, 2.0]"),
    "recipe_ch_mult_nested": ('{"ch_mult": [[1]]}', "ch_mult must be a list of integers, ..., got [[1]]"),
    "recipe_ch_mult_true": ('{"ch_mult": [true]}', "ch_mult must be a list of integers, ..., got [True]"),
    "recipe_ch_mult_many": (f'{{"ch_mult": {[1] * 9999}}}', "ch_mult must be a list of integers, ..., got [1, 1"),
    "recipe_attn_null": ('{"attn": null}', "attn must be a list of integers, ..., got None"),
    "recipe_ch_huge": ('{"ch": 1000000}', "ch must be an integer in 2..4096, got 1000000"),
    "recipe_blocks_huge": ('{"num_res_blocks": 1000000}', "num_res_blocks must be an integer in 1..64, got 1000000"),
}
for name in JSON:
    add("Recipes as files", (f"train --recipe {{{name}}}", f"{{{name}}}: ...{JSON[name][1]}"))

# sample.

add(
    "sample: what to draw from",
    ("--weights imagenet", "no weights 'imagenet' ship with the course; there are ...digits_ddpm"),
    ("--weights ../digits_ddpm", "there is no file ../digits_ddpm"),
    ("--weights runs/digit", "there is no file runs/digit"),
    ("--weights digit_ddpm", "no weights 'digit_ddpm' ship with the course; there are ...digits_ddpm"),
    ("--weights {file}", "is no whole safetensors file (...): delete it, or get it again"),
    ("--weights {weights_folder}", "expected a file, got the folder {weights_folder}/weights.safetensors"),
    ("--weights {run_without_weights}", "there is no file {run_without_weights}/weights.safetensors"),
    ("--weights none.safetensors", "there is no file none.safetensors"),
    ("--weights {empty}", "there is no file {empty}/weights.safetensors: expected the folder of a run that"),
    ("--weights {state}", "does not hold the weights of a network, but maybe the state of a run"),
    ("--weights {clean}", "{clean} must be a PretrainedDiffusion, got a PretrainedClassifier"),
    ("--weights {noisy}", "must be a PretrainedDiffusion, got a PretrainedNoisyClassifier"),
    ("--weights digits_classifier", "digits_classifier must be a PretrainedDiffusion, got a PretrainedClassifier"),
    ("--weights digits_vae", "digits_vae must be a PretrainedDiffusion, got a PretrainedGenerator"),
    ("--weights {pickle}", "is no whole safetensors file (...): delete it, or get it again"),
    ("--weights {zeros}", "is no whole safetensors file (...): delete it, or get it again"),
    ("--weights {no_bytes}", "is no whole safetensors file (...): delete it, or get it again"),
    ("--weights {cut}", "is no whole safetensors file (...): delete it, or get it again"),
    ("--weights {flipped}", "is damaged, its checksum does not fit: delete it, or get it again"),
    ("--weights {long_header}", "is no whole safetensors file (...): delete it, or get it again"),
    ("--weights {foreign_tensors}", "holds tensors, but no 'about' as this package writes it"),
    ("--weights {about_list}", "holds tensors, but no 'about' as this package writes it"),
    ("--weights {about_deep}", "holds tensors, but no 'about' as this package writes it"),
    ("--weights {about_digits}", "holds tensors, but no 'about' as this package writes it"),
    ("--weights {about_unsigned}", "holds tensors, but no 'about' as this package writes it"),
    ("--weights {recipe_list}", "{recipe_list} is no whole safetensors file"),
    start="sample",
)
# A file with a right checksum, in which one thing cannot be: its path in `about`, the value, what is said of it.
FORGED = {
    "kind_unknown": ("kind", "gpt", "does not hold the weights of a network"),
    "kind_null": ("kind", None, "does not hold the weights of a network"),
    "shape_missing": ("shape", ..., "does not say what its network is ('shape'): get it again"),
    "shape_negative": ("shape", [1, -8, 8], "shape must be [C, H, W], or [2] of points, got [1, -8, 8]"),
    "shape_huge": ("shape", [1, 10**12, 8], "shape must be [C, H, W], or [2] of points, got [1, 1000000000000, 8]"),
    "shape_zero": ("shape", [1, 0, 8], "shape must be [C, H, W], or [2] of points, got [1, 0, 8]"),
    "shape_flat": ("shape", [64, 64], "shape must be [C, H, W], or [2] of points, got [64, 64]"),
    "shape_text": ("shape", "1x8x8", "shape must be [C, H, W], or [2] of points, got 1x8x8"),
    "shape_fraction": ("shape", [1, 8.5, 8], "shape must be [C, H, W], or [2] of points, got [1, 8.5, 8]"),
    "shape_colour": ("shape", [3, 8, 8], "recipe and images need a network of in_ch = 3, got 1"),
    "classes_number": ("classes", 10, "classes must be a list of names, got 10"),
    "classes_numbers": ("classes", [1, 2], "classes must be a list of names, got [1, 2]"),
    "classes_few": ("classes", ["0"], "recipe and images need a network of num_classes = 1, got 10"),
    "levels_one": ("levels", 1, "levels must lie in 2..256, or be 0 of points, got 1"),
    "levels_huge": ("levels", 10**15, "levels must lie in 2..256, or be 0 of points, got 1000000000000000"),
    "levels_text": ("levels", "17", "levels must lie in 2..256, or be 0 of points, got 17"),
    "step_text": ("step", "2", "step must be a positive integer, got '2'"),
    "step_negative": ("step", -2, "step must be a positive integer, got -2"),
    "recipe_none": ("recipe", None, "a recipe must be a JSON object, got NoneType"),
    "recipe_named_wrong": ("recipe.rate_of_learning", 1, "unknown in a recipe: rate_of_learning"),
    "recipe_T_negative": ("recipe.T", -6, "T must be an integer in 1..100000, got -6"),
    "recipe_T_other": ("recipe.T", 7, "recipe and images need a network of T = 7, got 6"),
    "recipe_schedule_none": ("recipe.schedule", "lineal", "schedule must be one of linear"),
    "recipe_mean_type_none": ("recipe.mean_type", "eps", "mean_type must be one of epsilon"),
    "recipe_var_type_other": ("recipe.var_type", "fixedlarge", "hybrid needs one of them; got var_type = fixedlarge"),
    "recipe_unconditional": ("recipe.conditional", False, "need a network of num_classes = None, got 10"),
    "unet_missing": ("unet", ..., "does not say what its network is ('unet'): get it again"),
    "unet_list": ("unet", [6, 8], "the network's options must be a JSON object, got list"),
    "unet_unknown": ("unet.depth", 3, "a UNet has no option 'depth'"),
    "unet_T_huge": ("unet.T", 10**15, "T must be ..., at most 100000, got 1000000000000000"),
    "unet_T_negative": ("unet.T", -6, "T must be ..., at most 100000, got -6"),
    "unet_T_long": ("unet.T", 50_000, "is of another network: expected time_embedding"),
    "unet_ch_huge": ("unet.ch", 10**9, "ch must be ..., at most 100000, got 1000000000"),
    "unet_ch_large": ("unet.ch", 65_536, "is of another network: expected ..."),
    "unet_ch_odd": ("unet.ch", 9, "ch must be even"),
    "unet_ch_negative": ("unet.ch", -8, "ch must be ..., got -8"),
    "unet_ch_text": ("unet.ch", "8", "ch must be ..., got 8"),
    "unet_ch_null": ("unet.ch", None, "ch must be ..., got None"),
    "unet_ch_mult_empty": ("unet.ch_mult", [], "ch_mult must hold a positive integer for each level, got []"),
    "unet_ch_mult_long": ("unet.ch_mult", [1] * 1000, "ch_mult must be ..., got [1, 1"),
    "unet_ch_mult_text": ("unet.ch_mult", "11", "ch_mult must be ..., got 11"),
    "unet_blocks_huge": ("unet.num_res_blocks", 99_999, "a network of 99999 blocks must have a tensor for each, got"),
    "unet_blocks_more": ("unet.num_res_blocks", 2, "is of another network: expected ... weights, got ...: missing"),
    "unet_groups_zero": ("unet.num_groups", 0, "channels must be divisible by num_groups = 0"),
    "unet_heads_zero": ("unet.num_heads", 0, "channels must be divisible by num_heads = 0"),
    "unet_dropout_two": ("unet.dropout", 2.0, "dropout probability has to be between 0 and 1, but got 2.0"),
    "unet_dropout_text": ("unet.dropout", "none", "dropout must be ..., got none"),
    "unet_eps_infinite": ("unet.norm_eps", float("inf"), "norm_eps must be ..., got inf"),
    "unet_flag_text": ("unet.biggan", "yes", "biggan must be ..., got yes"),
    "unet_classes_huge": ("unet.num_classes", 99_999, "is of another network: expected class_embedding.weight"),
    "unet_learned": (
        "unet.learned_var",
        False,
        "is of another network: expected tail.2.weight to be (1, 8, 3, 3), got",
    ),
}
add("sample: forged files", *((f"sample --weights {{{name}}}", told) for name, (_, _, told) in FORGED.items()))
add(
    "sample: what to draw",
    ("--out x.jpg", "--out must ... .png..., got x.jpg"),
    ("--out {file}/x.png", "{file}/x.png cannot be written: {file} is a file, expected a folder"),
    ("--label eleven", "the class must be one of 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, got eleven"),
    ("--label ''", "the class must be one of 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, got"),
    ("--label 10", "the class must be one of 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, got 10"),
    ("--steps often", "unknown step choice 'often'"),
    ("--steps ''", "unknown step choice ''; expected leadingN, trailingN"),
    ("--steps trailing7", "must lie in 1..6, got 7"),
    ("--steps trailing0", "the number of steps S must lie in 1..6, got 0"),
    ("--steps 5,5", "section 0 holds 3 steps, cannot choose 5 of them"),
    ("--steps 9,2", "section 0 holds 3 steps, cannot choose 9 of them"),
    ("--steps trailing", "unknown step choice 'trailing'"),
    ("--eta 0", "eta is an option of ddim, got eta = 0.0 and the sampler ancestral"),
    ("--sampler ddim --eta 2", "eta must lie in 0..1, got 2.0"),
    ("--sampler ddim --eta nan", "eta must lie in 0..1, got nan"),
    ("--churn 1", "churn is an option of heun, got churn = 1.0 and the sampler ancestral"),
    ("--sampler heun --churn -1", "churn must be a finite number, not negative, got -1.0"),
    ("--sampler heun --churn inf", "churn must be a finite number, not negative, got inf"),
    ("--guidance nan", "guidance must be a finite number, got nan"),
    ("--guidance inf", "guidance must be a finite number, got inf"),
    ("--seed -1", "seed must lie in 0..9223372036854775807, got -1"),
    ("--seed 99999999999999999999", "seed must lie in 0..9223372036854775807, got 99999999999999999999"),
    start="sample --weights {run}",
)
add(
    "sample: what to draw",
    ("--n 0", "argument --n: expected a positive integer, got 0"),
    ("--n -4", "argument --n: expected a positive integer, got -4"),
    ("--n ten", "argument --n: expected a positive integer, got ten"),
    ("--n 1e3", "argument --n: expected a positive integer, got 1e3"),
    ("--sampler euler", "argument --sampler: invalid choice: 'euler' (choose from ...ddim"),
    ("--sampler repaint", "argument --sampler: invalid choice: 'repaint'"),
    ("--eta half", "argument --eta: invalid float value: 'half'"),
    ("--churn much", "argument --churn: invalid float value: 'much'"),
    ("--guidance strong", "argument --guidance: invalid float value: 'strong'"),
    ("--seed luck", "argument --seed: invalid int value: 'luck'"),
    ("--seed 1.5", "argument --seed: invalid int value: '1.5'"),
    start="sample",
    status=2,
)

# evaluate.

add(
    "evaluate",
    ("--weights {run} --classifier {run}", "must be a PretrainedClassifier, got a PretrainedDiffusion"),
    ("--weights {clean} --classifier {clean}", "must be a PretrainedDiffusion, got a PretrainedClassifier"),
    ("--weights {run} --classifier none.safetensors", "there is no file none.safetensors"),
    ("--weights {run} --classifier resnet", "no weights 'resnet' ship with the course; there are"),
    ("--weights {run} --classifier {cut}", "is no whole safetensors file"),
    ("--weights {run} --classifier {state}", "does not hold the weights of a network"),
    ("--weights imagenet", "no weights 'imagenet' ship with the course; there are"),
    ("--weights none.safetensors", "there is no file none.safetensors"),
    ("--weights {forged_shape}", "does not say what its network is"),
    ("--weights {run} --classifier {clean} --n 2", "at least 20 samples, got 2"),
    ("--weights {run} --classifier {clean} --n 60 --bits 383", "382 images held out, expected --bits 0..382, got 383"),
    ("--weights {run} --sampler ddim --eta 2", "eta must lie in 0..1, got 2.0"),
    ("--weights {run} --eta 0.5", "eta is an option of ddim, got eta = 0.5 and the sampler ancestral"),
    ("--weights {run} --guidance nan", "guidance must be a finite number, got nan"),
    ("--weights {run} --seed -1", "seed must lie in 0..9223372036854775807, got -1"),
    start="evaluate",
)
add(
    "evaluate",
    ("--n 0", "argument --n: expected a positive integer, got 0"),
    ("--bits -1", "argument --bits: expected 0 or a positive integer, got -1"),
    ("--bits many", "argument --bits: expected 0 or a positive integer, got many"),
    ("--sampler euler", "argument --sampler: invalid choice: 'euler'"),
    start="evaluate",
    status=2,
)

# Names that are empty: "$RUN" of a variable that was not set.

for words in (
    ("train --preset digits --out",),
    ("train --from",),
    ("sample --weights", "sample --out", "sample --root"),
    ("evaluate --json", "evaluate --classifier", "evaluate --held-out"),
    ("export {run} --out",),
):
    add(
        "Empty names",
        *((f"{call} ''", f"argument {call.split()[-1]}: expected a name, got an empty one") for call in words),
        status=2,
    )
add(
    "Empty names",
    ("status ''", "argument FOLDER: expected a name, got an empty one"),
    ("export '' --out x", "argument WEIGHTS: expected a name, got an empty one"),
    status=2,
)

# What came with runs that can be looked at, gone on with and begun from other weights.

add(
    "train: folders of runs",
    (
        "--out {run_edited}",
        "recipe.json was edited (lr = 0.5 there, 0.001 in the state), but the state decides: put it",
    ),
    (
        "--out {run_without_state}",
        "{run_without_state}/state.safetensors, without which the run cannot go on, is missing beside log.csv and "
        "weights.safetensors: train --from {run_without_state} --out ANOTHER goes on with its weights; or delete",
    ),
    (
        "--out {run_cut_weights}",
        "is no whole safetensors file ...; or move {run_cut_weights}/weights.saf",
    ),
    ("--out {run_other_weights}", "weights.safetensors is of another run than the state beside it: move"),
    (
        "--out {run_damaged_log}",
        "log.csv is damaged in line 2: expected step, ..., got ...Move it away, and the run goes",
    ),
    ("--out {run_log_folder}", "log.csv must be a file, got a folder: move it away"),
    (
        "--out {run_recipe_folder}",
        "recipe.json cannot be used: a recipe must be a file, got the folder ...: the state holds the recipe, too",
    ),
    ("--out {run_held} --steps 1 --preset digits", "another process works in {run_held}: wait until it ends"),
    ("--out {run} --steps 3", "holds a run of another recipe (steps = 2, now 3): name another folder"),
    ("--out {nowhere} --preset digits", "{nowhere} cannot be made (a link there leads nowhere): name another folder"),
    ("--out {weights_folder} --preset digits", "{weights_folder} holds other files and no run: name an empty or a new"),
    ("--out {run} --from {run}", "the run in {run} began from no weights: leave out --from to go on with it"),
    ("--out {run} --device meta --steps 1", "holds a run of another recipe (steps = 2, now 1)"),
    ("--preset digits --device meta", "--device meta cannot be used on this machine, expected cpu, or a GPU"),
    ("--preset digits --lr 0", "lr, the learning rate, must be positive, got 0.0; 2e-4 is usual"),
    ("--preset digits --root {images}", "images lie, and those of digits come with the course: got --root {images}"),
    ("--data mnist_10k --root {images}", "those of mnist_10k come with the course: got --root {images}"),
    ("--preset mnist --root {file}", "MNIST was to be read from a folder, got {file}, which is a file"),
    start="train",
)
add(
    "train: folders of runs",
    (
        "train --out {run}",
        "Already finished: ... holds the averaged network after 2 steps; more steps: --from {run} --out FOLDER",
    ),
    ("train --out {run_no_log}", "{run_no_log}/log.csv holds 0 of 2 steps: the others are lost"),
    ("train --out {run_unweighted}", "{run_unweighted}/weights.safetensors was missing: written anew from the state"),
    status=DONE,
)
add(
    "train: begin from weights",
    ("--from imagenet", "no weights 'imagenet' ship with the course; there are"),
    ("--from runs/digit", "there is no file runs/digit"),
    ("--from {empty}", "there is no file {empty}/weights.safetensors"),
    ("--from {clean}", "--from must name a diffusion model, got {clean}, a PretrainedClassifier"),
    ("--from digits_vae", "--from must name a diffusion model, got ...digits_vae.safetensors, a PretrainedGenerator"),
    ("--from {state}", "does not hold the weights of a network, but maybe the state of a run"),
    ("--from {cut}", "is no whole safetensors file (...): delete it, or get it again"),
    ("--from {run} --ch 16", "of another network (ch = 8, here 16): give the options that it was trained with"),
    ("--from {run} --T 7", "of another network (T = 6, here 7): give the options that it was trained with"),
    ("--from {enlarger} --condition none", "of another network (cond_ch = 1, here 0): give the options"),
    ("--from {plain} --conditional", "of another network (num_classes = None, here 10): give the options"),
    ("--from {run} --steps 0", "steps must be an integer in 1..1000000000000, got 0"),
    start="train",
)
add(
    "train: folders of images",
    ("--size 8 --root {one}", "there is only 1 image, too few for batch_size = 64: more images are needed"),
    ("--size 8 --root {circle}", "batch_size must lie in 1..2, got 64: there are 2 images"),
    (
        "--size 8 --root {only_itself}",
        "no images in {only_itself}: ...; left out: link to a folder that is read already",
    ),
    ("--size 8 --root {dead_link}", "no images in {dead_link}: ...; left out: link that leads nowhere: 1 (0.png)"),
    (
        "--size 8 --root {run}",
        "{run} is the folder of a run, whose pictures are drawn: expected a folder of your images",
    ),
    ("--root {images} --out {images}/run", "must not lie inside of each other: the run's pictures would become images"),
    ("--root {photos}/red --out {photos}", "must not lie inside of each other: the run's pictures would become images"),
    start="train --preset folder",
)
add(
    "status",
    ("nowhere", "nowhere is no folder: expected that of a run, such as runs/digits"),
    ("{empty}", "{empty} holds no run: expected a folder that train has made, such as runs/digits"),
    ("{foreign}", "{foreign} holds no run: expected a folder that train has made"),
    ("{file}", "{file} is no folder: expected that of a run"),
    ("{weights}", "{weights} is no folder: expected that of a run"),
    ("{weights_folder}", "{weights_folder} holds no run: expected a folder that train has made"),
    (
        "{run} {empty} {file}",
        "{empty} holds no run: expected a folder ...; {file} is no folder: expected that of a run",
    ),
    start="status",
)
add(
    "status",
    ("", "the following arguments are required: FOLDER"),
    ("{run} --device cpu", "unrecognized arguments: --device cpu"),
    start="status",
    status=2,
)
add(
    "status",
    ("{run_cut_state}", "note     {run_cut_state}/state.safetensors is no whole safetensors file"),
    ("{run_edited}", "note     {run_edited}/recipe.json was edited (lr = 0.5 there, 0.001 in the state)"),
    ("{run_bad_recipe}", "note     {run_bad_recipe}/recipe.json cannot be used: a recipe must be JSON"),
    ("{run_recipe_folder}", "note     {run_recipe_folder}/recipe.json cannot be used: a recipe must be a file"),
    ("{run_without_state}", "note     {run_without_state}/state.safetensors, without which the run cannot go on"),
    ("{run_without_weights}", "note     {run_without_weights}/weights.safetensors is missing: the same train command"),
    ("{run_no_log}", "note     {run_no_log}/log.csv holds 0 of 2 steps: the others are lost"),
    ("{run_damaged_log}", "note     {run_damaged_log}/log.csv is damaged in line 2"),
    ("{run_other_weights}", "note     {run_other_weights}/weights.safetensors is of another run than the state"),
    ("{run_held}", "process  another process works here"),
    start="status",
    status=DONE,
)
add(
    "sample: where to",
    ("--out .png", "--out needs a name before its ending, got .png"),
    ("--out {file}", "expected the name of a folder to write, got the file {file}"),
    ("--out {foreign}", "{foreign} holds files, and nothing is overwritten: name an empty or a new folder"),
    ("--out {nowhere}/x.png", "{nowhere}/x.png cannot be written: {nowhere} is a link that leads nowhere"),
    ("--out {nowhere}", "{nowhere} cannot be written: {nowhere} is a link that leads nowhere"),
    ("--out /proc/x.png", "/proc/x.png cannot be written (...) in /proc: name another place"),
    ("--out {long_name}.png", "cannot be written (File name too long): name another place"),
    ("--separate --out x.png", "--separate writes PNGs into a folder: expected --out FOLDER, got x.png"),
    ("--separate --out x.jpg", "--separate writes PNGs into a folder: expected --out FOLDER, got x.jpg"),
    ("--separate --animate", "give --separate or --animate, not both: an animation is one file"),
    ("--animate --out x.npz", "--animate writes an animation: expected --out FILE.png or FILE.gif, got x.npz"),
    ("--animate --out x/", "--animate writes an animation: expected --out FILE.png or FILE.gif, got x/"),
    ("--n 10001", "shows at most 10000 images, got --n 10001: write a folder, --out samples/, or --out samples.npz"),
    ("--n 1001 --out x.gif", "one picture shows at most 1000 images, got --n 1001: write a folder, --out x/"),
    ("--n 1000000000 --out x.npz", "images at once need ... GiB of memory, this machine has ...: draw them in several"),
    start="sample --weights {run}",
)
add(
    "sample: what to draw",
    ("--weights {plain} --label 3", "this network was trained without labels: expected no class, got 3; leave it out"),
    ("--weights {plain} --guidance 2", "guidance leads towards labels: expected some, got none and guidance = 2.0"),
    ("--weights {run} --root {images}", "images lie, and those of digits come with the course: got --root {images}"),
    ("--weights {enlarger} --label 3", "this network enlarges images, whose classes are what they are: got --label 3"),
    ("--weights {enlarger} --n 383", "there are 382 images held out, expected 1..382, got 383"),
    ("--weights {run} --n 4 --label 3 --guidance 1e300", "the images are not all finite numbers with ...: lower"),
    start="sample",
)
add(
    "sample: what to draw",
    ("--batch 0", "argument --batch: expected a positive integer, got 0"),
    ("--n 2000000000", "argument --n: expected a positive integer up to 1000000000, got 2000000000"),
    start="sample",
    status=2,
)
add(
    "evaluate",
    ("--weights {run} --json {empty}", "expected the name of a file to write, got the folder {empty}"),
    ("--weights {run} --json {file}/x.json", "{file}/x.json cannot be written: {file} is a file, expected a folder"),
    ("--weights {run} --held-out {images}", "--held-out is for networks of a folder of images; digits has held-out"),
    ("--weights {run} --inception none.pth", "there is no file none.pth, expected weights-inception-...torch-fidelity"),
    ("--weights {run} --inception {file}", "{file} does not hold the weights of Inception, weights-inception-"),
    ("--weights {run} --inception {pickle}", "{pickle} does not hold the weights of Inception, weights-inception-"),
    ("--weights {run} --inception x --classifier own", "give --inception or --classifier, not both"),
    (
        "--weights {run} --classifier mnist_classifier",
        "mnist_classifier is of mnist, 1 x 28 x 28, 10 classes: leave out",
    ),
    ("--weights {run} --classifier {noisy}", "this is a classifier of noisy images with T = 6: expected one of clean"),
    ("--weights {run} --root {images}", "images lie, and those of digits come with the course: got --root {images}"),
    (
        "--weights {run_of_photos}",
        "expected at least 40 images, of which half are kept apart, got 24: train on more, or",
    ),
    ("--weights {run_of_photos} --held-out {images}", "on either side, got 24 to compare with and 2 held out"),
    (
        "--weights {run_of_photos} --held-out {mixed}",
        "has images both in sub-folders, one per class, and outside of them",
    ),
    ("--weights {run_of_photos} --held-out nowhere", "there is no folder ...nowhere"),
    ("--weights {run_of_photos} --root {images}", "was trained on, blue, red, got red: name their folder with --root"),
    (
        "--weights {run_of_photos} --classifier digits_classifier",
        "expected a classifier of folder, 3 x 8 x 8, blue, red",
    ),
    ("--weights {run_binary_recipe}", "{run_binary_recipe}/recipe.json: a recipe must be JSON, which is text"),
    ("--weights digits_vae", "digits_vae must be a PretrainedDiffusion, got a PretrainedGenerator"),
    start="evaluate",
)
add(
    "export",
    ("--out x", "say once what to export: ddpm_lesson export WEIGHTS --out FOLDER"),
    ("{run} --weights {run} --out x", "say once what to export"),
    ("{run} --out {foreign}", "{foreign} holds files, and nothing is overwritten: name an empty or a new folder"),
    ("{run} --out {file}", "expected the name of a folder to write, got the file {file}"),
    ("{run} --out {file}/x.safetensors", "cannot be written: {file} is a file, expected a folder"),
    ("{run} --out x.onnx", "--out must be a folder, for diffusers, or a file that ends in .safetensors, got x.onnx"),
    (
        "{run} --out x.safetensors",
        "has no such options: expected its own, got num_classes = 10, num_groups = 4: name a",
    ),
    ("{run} --out x --label 3 --unlabelled", "give --label or --unlabelled, not both"),
    ("{run} --out x --label eleven", "the class must be one of 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, got eleven"),
    ("{plain} --out x --label 3", "this network was trained without labels: expected no class, got 3; leave it out"),
    ("{plain} --out x --unlabelled", "--unlabelled is for networks with classes: this one knows none, leave it out"),
    ("{enlarger} --out x", "expected a recipe with condition none, got condition low_res"),
    ("{clean} --out x", "must be a PretrainedDiffusion, got a PretrainedClassifier"),
    ("{run_without_weights} --out x", "there is no file {run_without_weights}/weights.safetensors"),
    ("{flipped} --out x", "is damaged, its checksum does not fit: delete it, or get it again"),
    ("imagenet --out x", "no weights 'imagenet' ship with the course; there are"),
    start="export",
)
add(
    "export",
    ("export {run}", "the following arguments are required: --out"),
    ("export {run} {weights} --out x", "unrecognized arguments: {weights}"),
    ("export {run} --out x --device cpu", "unrecognized arguments: --device cpu"),
    status=2,
)

# Calls in Python.

add(
    "Python: recipes and runs",
    (
        "Recipe(data='imagenet')",
        "data must be one of digits, mnist_10k, mnist, fashion_mnist, cifar10, folder, got 'imagenet'",
    ),
    ("Recipe(lr=10**400)", "lr must be a number in 0..1e+300, got 1000...000"),
    ("Recipe(T=1e3)", "T must be an integer in 1..100000, got 1000.0"),
    ("Recipe(ch_mult=(1, '2'))", "ch_mult must be a list of integers, ..., got (1, '2')"),
    ("Recipe.from_json('[')", "a recipe must be JSON, got text that is not"),
    ("Recipe.from_json(b'\\xff\\xff')", "a recipe must be JSON, which is text, got bytes that are none"),
    ("Recipe.from_values([('T', 5)])", "a recipe must be a JSON object, got list"),
    ("Recipe.from_file('{folder}')", "a recipe must be a file, got the folder"),
    ("Recipe.from_file('{none}')", "there is no recipe {none}: name a recipe.json"),
    ("ClassifierRecipe('digits', T=0)", "T must be an integer in 1..100000 or None, got 0"),
    ("ClassifierRecipe('digits', schedule='lineal')", "schedule must be one of linear, ..., got 'lineal'"),
    ("GeneratorRecipe('flow')", "unknown kind 'flow', expected one of ddgan, gan, vae, distilled, consistency"),
    ("GeneratorRecipe('ddgan', latent=10**9)", "latent must be an integer in 1..65536, got 1000000000"),
    ("GeneratorRecipe('gan', T=4)", "a gan has one step, T = 1: with more it is a ddgan; got T = 4"),
    ("GeneratorRecipe('distilled')", "a distilled student has a teacher, others none; got distilled, None"),
    ("load_weights('{state}')", "does not hold the weights of a network, but maybe the state of a run"),
    ("load_weights('{none}')", "there is no file {none}"),
    ("load_pretrained('digits')", "no weights 'digits' ship with the course; there are"),
    status=RAISES,
)
add(
    "Python: data",
    ("data.digits('validation')", "split must be None, 'train' or 'test', got 'validation'"),
    ("data.folder('{none}', 8)", "there is no folder {none}"),
    ("data.folder('{images}', 0)", "size must be a positive integer, got 0"),
    ("data.folder('{images}', 8.0)", "size must be a positive integer, got 8.0"),
    ("data.folder('{images}', 8, channels=2)", "channels must be 1 (grey) or 3 (RGB), got 2"),
    ("data.folder('{file}', 8)", "path must be a folder of images, got the file {file}"),
    ("data.folder('{damaged}', 8)[0]", "cannot be read as an image: ...; repair it, or take it out"),
    ("data.to_uint8(torch.zeros(2, dtype=torch.uint8), 256)", "x must be floating point in [-1, 1], got torch.uint8"),
    ("data.to_uint8(torch.zeros(2), 1)", "levels must lie in 2..256, got 1"),
    ("data.to_uint8(torch.full((3,), torch.nan), 256)", "x must hold numbers in [-1, 1], got 3 NaN among 3 values"),
    status=RAISES,
)
add(
    "Python: the process",
    ("linear(0)", "T must be a positive integer, got 0"),
    ("GaussianDiffusion(torch.zeros(3))", "betas are variances and must lie in (0, 1], got 0.0 at t = 0"),
    ("GaussianDiffusion(torch.ones(2, 2))", "betas must be (T,) with at least one step, got shape (2, 2)"),
    ("GaussianDiffusion(torch.tensor([]))", "betas must be (T,) with at least one step, got shape (0,)"),
    ("GaussianDiffusion([0.1, 2.0])", "betas are variances and must lie in (0, 1], got 2.0 at t = 1"),
    ("process.respaced([0, 0])", "timesteps must be increasing integers, at least one, got [0, 0]"),
    ("process.respaced([9, 10])", "timesteps must lie in 0..9, got 9 to 10"),
    ("process.q_sample(x_0, torch.tensor([10, 0]), x_0)", "t must lie in 0..9, got"),
    ("process.q_sample(x_0, torch.tensor([0.0, 1.0]), x_0)", "t must hold integer indices (int64), got torch.float32"),
    ("process.q_sample(x_0, t, x_0[:, :, :4])", "images must have one shape, got (2, 1, 8, 8) and (2, 1, 4, 8)"),
    ("Gaussian(x_0, x_0).discretized_log_prob(x_0, levels=1)", "levels must be at least 2, got 1"),
    ("Sampling('euler')", "unknown sampler 'euler', expected one of ancestral"),
    ("Sampling(steps=50)", "steps must be 'all' or a choice such as 'trailing50', got 50"),
    ("Sampling(guidance=float('inf'))", "guidance must be a finite number, got inf"),
    ("log_snr(process.snr, 1)", "this choice holds both ends and needs S >= 2, got 1; use trailing"),
    ("bits_per_dim(network, process, epsilon, fixedsmall, x_0, batch_size=-1)", "batch_size must be positive, got -1"),
    ("Uniform(10).sample(0)", "batch_size must be positive, got 0"),
    ("first([x_0], lr=1e-3, timesteps=Uniform(4))", "the process, which has T = 10, got a sampler of T = 4"),
    ("trained.sample(0)", "n and batch_size must be positive, got 0 and 250"),
    ("trained.sample(2, batch_size=0)", "n and batch_size must be positive, got 2 and 0"),
    ("trained.labels(2, 'cat')", "the class must be one of 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, got cat"),
    ("trained.sample(2, y=torch.tensor([1]))", "y must be (2,), a label for each image, got (1,)"),
    ("trained.states(2, y=torch.tensor([1]))", "y must be (2,), a label for each image, got (1,)"),
    ("trained.sample(1, part=(0, 2))", "part 0 of 2 must hold an image, got none of n = 1: see part_of"),
    ("trained.sample(1, part=(2, 2))", "a part must be (number, of) with number in 0..of - 1, got (2, 2)"),
    ("trained.sample(2, start=0.0)", "start, a share of the chain, must lie in (0, 1], got 0.0"),
    ("trained.sample(2, cond=x_0)", "this network enlarges no images: expected no cond, got one of shape"),
    status=RAISES,
)
add(
    "Python: networks",
    ("UNet(0, 8, [1], [], 1, 0.0)", "T must be at least 1, got 0"),
    ("UNet(6, 7, [1], [], 1, 0.0)", "ch must be even"),
    ("UNet(6, 8, [], [], 1, 0.0)", "ch_mult must hold a positive integer for each level, got []"),
    ("UNet(6, 8, [1], [1], 1, 0.0)", "attn must name levels in 0..0, got [1]"),
    ("UNet(6, 8, [1], [], 0, 0.0)", "num_res_blocks must be at least 1, got 0"),
    ("UNet(6, 8, [1], [], 1, 0.0, num_groups=3)", "channels must be divisible by num_groups = 3, got 8 channels"),
    ("unet(x_0[0], t)", "x must be (B, 1, H, W), got (1, 8, 8)"),
    ("unet(x_0.expand(2, 3, 8, 8), t)", "x must be (B, 1, H, W), got (2, 3, 8, 8)"),
    ("unet(x_0, t[:1])", "t must be (B,) with the batch size of x, got (1,) for (2, 1, 8, 8)"),
    ("unet(x_0, t.float())", "t must hold integer indices (int64), got torch.float32"),
    ("unet(x_0, t + 6)", "t must lie in 0..5, got"),
    ("unet(x_0, t, t + 20)", "y must lie in 0..10, got"),
    ("unet(x_0, t, t.float())", "y must hold integer labels (int64), got torch.float32"),
    ("unet(x_0, t, cond=x_0)", "cond must be None for a network with cond_ch = 0, got (2, 1, 8, 8)"),
    ("Classifier(0, 8, [1])", "sizes and at least one ch_mult must be positive, got"),
    status=RAISES,
)


add(
    "Python: images and answers",
    ("Trainer(network, 1e-3, 0.2, 100)(255 * bright)", "images must lie in [-1, 1], got unscaled pixels, from ... to"),
    (
        "Trainer(network, 1e-3, 0.2, 100)(x_0.long())",
        "images must be floating point in [-1, 1], got torch.int64; 8-bit images",
    ),
    (
        "Trainer(network, 1e-3, 0.2, 100)((x_0, t))",
        "images must be one tensor, got a tuple of 2; of a batch (images, labels) give",
    ),
    ("Trainer(network, 1e-3, 0.2, 100)(x_0 * torch.nan)", "images must be finite numbers in [-1, 1], got 128 NaN or"),
    (
        "Trainer(in_a_tuple, 1e-3, 0.2, 100)(x_0)",
        "the model must return a tensor, got a tuple of 1: give ...[0] instead",
    ),
    ("first([255 * bright], lr=1e-3)", "must lie in [-1, 1], got unscaled pixels"),
    ("first([x_0], lr=0.0)", "lr, the learning rate, must be positive and finite, got 0.0"),
    (
        "first([x_0], lr=-1.0)",
        "lr, the learning rate, must be positive and finite, got -1.0",
    ),
    ("Recipe(lr=0)", "lr, the learning rate, must be positive, got 0.0; 2e-4 is usual"),
    (
        "load_weights('{weights_folder}/weights.safetensors')",
        "expected a file, got the folder {weights_folder}/weights",
    ),
    (
        "data.folder('{floating}', 8)[0]",
        "cannot be read as an image: expected pixels of 8 or 16 bits, got floating point",
    ),
    status=RAISES,
)
add(
    "Python: images and answers",
    ("Trainer(network, 1e-3, 0.2, 100)(bright)", "images should lie in [-1, 1], got values from ...as ToTensor gives"),
    (
        "Trainer(network, 1e-3, 0.2, 100)(3 * bright - 6)",
        "got values up to 6 in size; likely cause: a mean and std normalis",
    ),
    ("first([bright], lr=1e-3)", "should lie in [-1, 1], got values from"),
    status=WARNS,
)


# grade.

add(
    "grade",
    ("grade nowhere", "there is no file or folder nowhere: name a notebook, or a folder of copies"),
    ("grade {folder}", "expected notebooks, *.ipynb, in the folder {folder} or its sub-folders, found none"),
    ("grade {copy_as_zip}", "expected a notebook, *.ipynb, or a folder of them, got the file {copy_as_zip}, unpack it"),
    ("grade {copy} --out {file}", "expected the name of a folder to write, got the file {file}"),
    ("grade {copy} --out {foreign}", "{foreign} holds other files (...) and is no folder of grades: name another one"),
    ("grade {copy} --out {foreign} --force", "{foreign} holds other files (...) and is no folder of grades"),
    ("grade {copy} --out {grades}", "{grades} holds earlier grades: name another folder with --out, or replace it"),
)
add(
    "grade",
    ("grade", "the following arguments are required: COPY"),
    ("grade ''", "argument COPY: expected a name, got an empty one"),
    ("grade {copy} --out ''", "argument --out: expected a name, got an empty one"),
    ("grade {copy} --timeout 0", "argument --timeout: expected a number of seconds in 1..86400, got 0"),
    ("grade {copy} --timeout nan", "argument --timeout: expected a number of seconds in 1..86400, got nan"),
    ("grade {copy} --timeout soon", "argument --timeout: expected a number of seconds in 1..86400, got soon"),
    ("grade {copy} --memory 1", "argument --memory: expected a number of MB in 64..1000000, got 1"),
    ("grade {copy} --memory 2GB", "argument --memory: expected a number of MB in 64..1000000, got 2GB"),
    ("grade {copy} --jobs 0", "argument --jobs: expected a positive integer, got 0"),
    ("grade {copy} --device cpu", "unrecognized arguments: --device cpu"),
    status=2,
)


def page() -> str:
    """docs/errors.md: the table, by groups."""
    lines = [
        "# What is said of bad input",
        "",
        f"Each of these {len(ROWS)} mistakes is answered by one sentence and never by a traceback. `...` stands for",
        "what differs, `{name}` for a file or folder of that kind. The exit status is 1 for something that cannot be",
        "done, 2 for a command line that cannot be read, 0 where a command says what it found; calls in Python raise",
        "or warn. Written from the table in `tests/bad_input.py` by `python tests/bad_input.py --write`;",
        "`tests/test_bad_input.py` runs every row.",
    ]
    for group in dict.fromkeys(row.group for row in ROWS):
        lines += ["", f"## {group}", "", "| input | sentence | exit |", "|:--|:--|:--|"]
        for row in [row for row in ROWS if row.group == group]:
            call, told = (text.replace("|", "\\|") for text in (row.call or "(nothing)", row.told))
            lines.append(f"| `{call}` | {told.replace('<', '&lt;')} | {ENDS.get(row.status, row.status)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(page(), encoding="utf-8")
    else:
        sys.exit(__doc__)
