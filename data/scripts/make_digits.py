"""Writes digits.npz, in data/, from scikit-learn's copy of the UCI digits: python data/scripts/make_digits.py

Needs scikit-learn, which the course itself does not.  The same bytes come out on every machine: nothing is
compressed (compressors differ between versions) and the archive carries no date.
"""

import hashlib
import zipfile
from pathlib import Path

import numpy as np


def write(path, compression=zipfile.ZIP_STORED, **arrays):
    """The arrays as an .npz file that depends on nothing but them and, if there is any, the compressor."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            member.create_system = 3  # zipfile writes the number of the operating system at hand otherwise
            member.compress_type = compression
            with archive.open(member, "w") as file:
                np.lib.format.write_array(file, array, version=(1, 0))


def main():
    from sklearn.datasets import load_digits

    digits = load_digits()
    arrays = {"images": digits.images.astype(np.uint8), "labels": digits.target.astype(np.uint8)}
    assert (arrays["images"] == digits.images).all() and arrays["images"].max() == 16
    write(Path(__file__).parent.with_name("digits.npz"), **arrays)
    for name, array in arrays.items():
        print(name, array.dtype, array.shape, hashlib.sha256(array.tobytes()).hexdigest())


if __name__ == "__main__":
    main()
