"""A JupyterLab of one's own for browser.py: it reads and writes nothing of the user's, and leaves nothing."""

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = {
    # Else only what is on the screen is in the page.
    "notebook-extension/tracker": '{"windowingMode": "none"}',
    "apputils-extension/notification": '{"fetchNews": "false", "checkForUpdates": false}',
}


@contextmanager
def jupyterlab(scratch: Path) -> Iterator[str]:
    """The address of a server whose files, settings and kernels' files all lie in scratch."""
    for name, text in SETTINGS.items():
        path = scratch / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(16)
    options = ["--no-browser", f"--port={port}", "--ServerApp.port_retries=0", "--expose-app-in-browser"]
    options += [f"--ServerApp.root_dir={scratch / 'course'}", "--allow-root"]
    places = {"JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces", "IPYTHONDIR": "ipython"}
    places |= {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_RUNTIME_DIR": "runtime", "JUPYTER_DATA_DIR": "share"}
    environment = os.environ | {name: str(scratch / place) for name, place in places.items()}
    environment |= {"PYTHONPATH": str(ROOT), "JUPYTER_TOKEN": token}
    with open(scratch / "server.log", "wb") as log:
        command = [sys.executable, "-m", "jupyterlab", *options]
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            end = time.monotonic() + 120
            while not answers(port):
                if server.poll() is not None or time.monotonic() > end:
                    raise SystemExit(f"JupyterLab did not start:\n{(scratch / 'server.log').read_text('utf-8')}")
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/doc/tree/{{}}?token={token}"
        finally:
            server.terminate()
            server.wait(60)


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
