"""One stream of events, twice: rules that call a service that is in trouble, bare and with protection.

Run it with `python -m examples.resilient_calls`; it takes about fifteen seconds.
"""

import asyncio
import sys

from rich.console import Console

from examples.resilient_calls.screen import CREDITS, WIDTH, mood_line, picture, verdict
from examples.resilient_calls.stream import PACE, run, steps


def main() -> int:
    console = Console()
    console.width = min(console.width, WIDTH)
    try:
        return asyncio.run(_twice(console))
    except KeyboardInterrupt:
        return 130  # as a shell has it


async def _twice(console: Console) -> int:
    console.print(f"{len(steps())} steps of a real help desk, {PACE} a second; the service that its rules call is")
    console.print(mood_line())
    with console.status("without protection ..."):
        bare = await run(protected=False)
    with console.status("with protection ..."):
        protected = await run(protected=True)
    console.print(picture(bare, protected))
    console.print(verdict(bare, protected), style="bold", highlight=False)
    console.print()
    console.print(CREDITS, style="dim", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
