"""Writes mnist_10k.npz, in data/, from MNIST in torchvision's layout.

    python data/scripts/make_mnist_10k.py --root FOLDER [--out FILE]

The first 10,000 training images, compressed: whole they are 8 MB. The arrays are the same on every machine, the
file's bytes depend on the compressor's version.
"""

import argparse
import hashlib
import zipfile
from pathlib import Path

import numpy as np
from make_digits import write

from ddpm_lesson.data import mnist

KEPT = 10_000


def main():
    parser = argparse.ArgumentParser(description="Write the part of MNIST that ships.")
    parser.add_argument("--root", help="folder of torchvision's files; default: DDPM_LESSON_DATA")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.with_name("mnist_10k.npz"), help="the file")
    options = parser.parse_args()
    images = mnist(options.root)
    arrays = {"images": images.data[:KEPT, 0].numpy(), "labels": images.labels[:KEPT].numpy().astype(np.uint8)}
    write(options.out, zipfile.ZIP_DEFLATED, **arrays)
    for name, array in arrays.items():
        print(name, array.dtype, array.shape, hashlib.sha256(array.tobytes()).hexdigest())


if __name__ == "__main__":
    main()
