"""A progress bar for training: steps, loss terms, images a second."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from medmoe.config import RunConfig


class Progress:
    """Shows each row of the metrics as it comes; plain lines where there is no terminal.

    Args:
        config: The recipe, for the number of steps.
        console: Where to print.
    """

    def __init__(self, config: RunConfig, console: Console) -> None:
        self.console, self.steps = console, config.train.steps
        self.bar = RichProgress(
            TextColumn(config.recipe),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[facts]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task("train", total=self.steps, facts="")
        self.last_line = 0

    def __enter__(self) -> Progress:
        """Start the bar."""
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the bar."""
        self.bar.stop()

    def __call__(self, row: dict[str, Any]) -> None:
        """Show a row."""
        if row["kind"] == "rewind":
            self.bar.print(f"back to step {row['step']} from step {row['at']}, where the loss jumped", soft_wrap=True)
            return
        terms = " ".join(f"{name} {value:.3f}" for name, value in row["terms"].items())
        if row["kind"] == "val":
            accuracy = row["image_router_accuracy"]
            routed = "" if accuracy is None else f" image router {accuracy:.3f}"
            line = f"step {row['step']} validation loss {row['loss']:.3f} {terms}{routed}"
            self.bar.print(line, highlight=False, soft_wrap=True)
            return
        facts = f"loss {row['loss']:.3f} {terms} {row['images_per_second']:.0f} images/s"
        self.bar.update(self.task, completed=row["step"], facts=facts)
        due = row["step"] - self.last_line >= self.steps // 10 or row["step"] in (1, self.steps)
        if not self.console.is_terminal and due:
            self.last_line = row["step"]
            self.console.print(f"step {row['step']}/{self.steps} {facts}", highlight=False, soft_wrap=True)
