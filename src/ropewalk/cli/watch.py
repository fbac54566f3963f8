"""What a person sees while a run goes on: the plan, the time left and the verdict, all on standard error."""

from typing import Any, Self

from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ropewalk.extend.job import Watch
from ropewalk.extend.plan import Item


class Screen(Watch):
    """A run drawn on standard error."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        columns = (BarColumn(20), TaskProgressColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
        self.bar = Progress(
            *columns, TextColumn("{task.description}"), console=self.console, speed_estimate_period=120.0
        )
        self.task = self.bar.add_task("starting", start=False, total=1.0)
        self.reading = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar.live.is_started:
            self.bar.stop()

    def say(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def plan(self, items: list[Item], seconds: float) -> None:
        stages = dict.fromkeys(item.stage for item in items)
        parts = [f"{stage} ({sum(i.stage == stage for i in items)} readings)" for stage in stages]
        self.say(
            f"plan: {', '.join(parts)}; about {max(seconds / 60, 0.1):.1f} minutes on this machine, less if few last"
        )
        # not before: a request that cannot be carried out leaves one line and no bar
        self.bar.start()
        self.bar.start_task(self.task)

    def at(self, stage: str, name: str, tokens: int, share: float) -> None:
        if not self.console.is_terminal and f"{stage}: {name}" != self.reading:
            self.reading = f"{stage}: {name}"
            self.say(f"{self.reading} ({100 * share:.0f} % done)")
        self.bar.update(self.task, completed=share, description=f"{stage}: {name}, {tokens:,} tokens")

    def result(self, summary: dict[str, Any], folder: str) -> None:
        from ropewalk.report.tables import markdown

        self.console.print()
        self.console.print(summary["verdict"], style="bold", markup=False, highlight=False)
        self.console.print(Markdown(markdown(summary)))
        self.say(f"report: {folder}/report.html   all rows: {folder}/rows.jsonl")
        if any(way["path"] for way in summary["deploy"]):
            self.say(f"checkpoint: {folder}/extended   engine files: {folder}/engines")
        for way in summary["deploy"]:
            if not way["path"]:  # no config can carry it
                self.say(f"to use it: {way['command']}")
