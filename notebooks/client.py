"""nbclient, which executes the notebooks for `make notebooks` and `make strangers`, and does not wait forever."""

from typing import Any

from nbclient import NotebookClient
from nbclient.output_widget import OutputWidget
from nbformat import NotebookNode

OF_WIDGETS = "@jupyter-widgets/output"


class QuietOutput(OutputWidget):
    """Where a widget's callback prints and draws; what it shows is not stored, and the kernel is not told of it.

    nbclient tells it on the channel on which it awaits the cell's reply. There kernels were seen that had done their
    work while nbclient waited on, as where pyzmq misses an event.
    """

    def send(self, *args: Any, **kwargs: Any) -> None:
        pass


def client(notebook: NotebookNode, **settings: Any) -> NotebookClient:
    """Whose execute() executes the notebook in place."""
    made = NotebookClient(notebook, **settings)
    made.widget_registry[OF_WIDGETS]["OutputModel"] = QuietOutput
    return made
