"""What the local stack says while it starts and runs: a quiet list on a terminal, plain lines elsewhere.

Add a sentence here when people should see something new; what happened is decided by the supervisor.
"""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.status import Status

from hls_pipeline.local.supervisor import Part


class ConsoleNarrator:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._status: Status | None = None

    def waiting_for(self, titles: list[str]) -> None:
        """The one moving line, on a terminal only."""
        if not titles or not self._console.is_terminal:
            self.quiet()
        elif self._status is None:
            self._status = self._console.status(_waiting(titles), spinner="dots")
            self._status.start()
        else:
            self._status.update(_waiting(titles))

    def quiet(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None

    def ready(self, part: Part, seconds: float) -> None:
        address = f"  [cyan]{part.address}[/cyan]" if part.address else ""
        self._line(f"[green]✓[/green] {part.title} [dim]{seconds:.1f} s[/dim]{address}")

    def say(self, text: str) -> None:
        self._line(f"[dim]·[/dim] {escape(text)}")

    def warn(self, text: str) -> None:
        self._line(f"[yellow]![/yellow] {escape(text)}")

    def _line(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True)


def _waiting(titles: list[str]) -> str:
    return f"[dim]starting {', '.join(titles)}[/dim]"
