"""Ctrl-C and SIGTERM: in a command from its first line on, in training between two steps instead of in the middle of one.

Python raises the handler's exception wherever it is; in a finalizer or a weak reference's callback it is printed and lost, and a
command would go on as if nobody had asked. So what was asked for is also kept, and training looks at it.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

NUMBERS = (signal.SIGINT, signal.SIGTERM)
_asked = threading.Event()


class Interrupted(KeyboardInterrupt):
    """A KeyboardInterrupt of a command.

    A class of its own: once a plain KeyboardInterrupt has left `exec` of a string, and imports call that all the time, CPython
    ends `python -m equipoise` by SIGINT, whatever exit status it asked for.
    """


def listen() -> None:
    """Make SIGINT and SIGTERM raise Interrupted, from here to the end of the process; main thread only, elsewhere nothing.

    A signal that the process was started to ignore, as SIGINT in a shell's background, stays ignored.
    """
    _asked.clear()
    if threading.current_thread() is threading.main_thread():
        for number in NUMBERS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    _asked.set()
    raise Interrupted


class Interruption:
    """`asked` turns True at the first SIGINT or SIGTERM; a second one interrupts at once. Main thread only.

    It is True from the start where the command was interrupted before and went on.
    """

    def __init__(self) -> None:
        self.asked = _asked.is_set()
        self._before: dict[int, object] = {}

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise Interrupted
        self.asked = True

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in NUMBERS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
