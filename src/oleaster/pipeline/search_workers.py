"""Processes beside this one that train trials of the same search.

Each is `python -m oleaster.pipeline.search_workers FOLDER ...`: it opens the study as anyone may, and tells what it
does on its standard output, one event a line. It needs nothing else from the process that started it, and ends when
that one is gone. When a worker dies, its trial is free for the others.
"""

from __future__ import annotations

import argparse
import base64
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oleaster.pipeline.trials import Deadline
    from oleaster.search.papers import SearchEvent, Watch

PATIENCE = 60.0
"""Seconds that a worker is given to end a step and keep it, when the search is stopped."""


class Workers:
    """`count` processes that work while the block lasts; at its end they are waited for.

    Args:
        threads: CPU threads of each.
        watch: gets their events, one at a time, as it does those that are given to `self.watch`.
    """

    def __init__(self, folder: Path, count: int, threads: int, deadline: Deadline, watch: Watch) -> None:
        minutes = [] if deadline.at is None else ["--minutes", str(max(0.0, deadline.at - time.monotonic()) / 60)]
        module = [sys.executable, "-m", "oleaster.pipeline.search_workers"]
        self._command = [*module, str(folder), "--threads", str(threads), *minutes]
        self._count, self._told, self._one_at_a_time = count, watch, threading.Lock()
        self._running: list[tuple[subprocess.Popen[bytes], threading.Thread]] = []

    def watch(self, event: SearchEvent) -> None:
        """Tell an event of this process."""
        with self._one_at_a_time:
            self._told(event)

    def __enter__(self) -> Workers:
        for _ in range(self._count):
            process = subprocess.Popen(self._command, stdout=subprocess.PIPE)
            thread = threading.Thread(target=self._listen, args=(process.stdout,), daemon=True)
            thread.start()
            self._running.append((process, thread))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        from oleaster.search.papers import SearchNote

        for process, thread in self._running:
            if kind is not None and process.poll() is None:
                process.send_signal(signal.SIGINT if os.name != "nt" else signal.SIGTERM)
            try:
                process.wait(None if kind is None else PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
            thread.join()
            if kind is None and process.returncode:
                self.watch(SearchNote(f"a worker ended with code {process.returncode}; its trial goes on here"))

    def _listen(self, lines: IO[bytes]) -> None:
        for line in lines:
            self.watch(pickle.loads(base64.b64decode(line)))


def main(words: Sequence[str] | None = None) -> int:
    """Work on the search in a folder until there is nothing more to do."""
    from oleaster.config.load import load_config, replace
    from oleaster.core.errors import OleasterError
    from oleaster.pipeline.search_plan import open_study, plan_search, shelf_of
    from oleaster.pipeline.trials import Deadline, work
    from oleaster.search.folder import RECIPE

    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--minutes", type=float)
    given = parser.parse_args(words)
    told = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no event

    def tell(event: Any) -> None:
        told.write(base64.b64encode(pickle.dumps(event)) + b"\n")
        told.flush()

    config = replace(load_config(given.folder / RECIPE), num_threads=given.threads)
    try:
        study = open_study(given.folder, config, *plan_search(config))
        work(study, shelf_of(config), Deadline.after(given.minutes), tell)
    except OleasterError as error:
        print(f"oleaster: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever started this one is gone
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
