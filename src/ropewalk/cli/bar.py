"""A bar with the time left, on standard error, for commands whose work is a share and a line of text."""

import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

WIDTH = 140  # where no terminal says how wide it is


class Bar:
    """Drawn on a terminal; elsewhere a line whenever another tenth is done, with the time left if all goes on so."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self.console = self.console if self.console.is_terminal else Console(stderr=True, width=WIDTH)
        columns = (BarColumn(20), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
        text = TextColumn("{task.description}", markup=False)
        self.bar = Progress(*columns, text, console=self.console, speed_estimate_period=600.0, transient=True)
        self.task = self.bar.add_task("starting", total=1.0)
        self.tenth, self.start = -1, time.monotonic()

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        # elsewhere it was never started, and would end with an empty line
        if self.console.is_terminal:
            self.bar.stop()

    def tell(self, share: float, text: str) -> None:
        """So much is done, and this is going on."""
        self.bar.update(self.task, completed=share, description=text)
        if not self.console.is_terminal and int(10 * share) > self.tenth:
            self.tenth = int(10 * share)
            passed = time.monotonic() - self.start
            left = f" (about {passed / share - passed:,.0f} s left)" if 0 < share < 1 else ""
            self.console.print(f"{100 * share:.0f} %{left} {text}", markup=False, highlight=False, soft_wrap=True)

    def say(self, line: str) -> None:
        """Something worth a line of its own."""
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)
