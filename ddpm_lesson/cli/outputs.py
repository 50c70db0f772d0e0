"""Where results go: whether they can be written is known before the work, and nothing is left by asking."""

import tempfile
from pathlib import Path

from ddpm_lesson.experiments.checkpoints import partial_beside


def check_file(path: Path) -> None:
    """Raise OSError of one sentence unless a file can be written there. Its folder may be missing."""
    if there(path) and path.is_dir():
        raise IsADirectoryError(f"expected the name of a file to write, got the folder {path}")
    there(partial_beside(path))  # which `write_whole` writes first
    _check_place(path.parent, path)


def check_new_folder(path: Path) -> None:
    """Raise OSError of one sentence unless files can be written into a folder there that is new or empty."""
    if there(path) and not path.is_dir():
        raise NotADirectoryError(f"expected the name of a folder to write, got the file {path}")
    if there(path) and any(path.iterdir()):
        raise FileExistsError(f"{path} holds files, and nothing is overwritten: name an empty or a new folder")
    _check_place(path, path)


def there(path: Path) -> bool:
    """Whether something lies there.  OSError of one sentence for a place that cannot be looked at."""
    if "\0" in str(path):
        raise OSError(f"{str(path)!r} cannot be written: no name holds a null character")
    try:
        return path.exists()
    except OSError as error:  # no permission to look, a name that is too long
        raise OSError(f"{path} cannot be written ({error.strerror}): name another place") from error


def _check_place(folder: Path, path: Path) -> None:
    while not there(folder):
        if folder.is_symlink():
            raise OSError(f"{path} cannot be written: {folder} is a link that leads nowhere; name another place")
        folder = folder.parent
    if not folder.is_dir():
        raise NotADirectoryError(f"{path} cannot be written: {folder} is a file, expected a folder")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"{path} cannot be written ({error.strerror}) in {folder}: name another place") from error
