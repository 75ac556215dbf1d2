"""An interrupt is noted, and the earlier handler comes back."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from trialese.pretrain.compute import note_interrupts


@pytest.fixture
def handler():
    """Python's own handler: a process in the background of a shell is started without it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def test_the_first_is_noted_and_the_second_acts(handler):
    with pytest.raises(KeyboardInterrupt), note_interrupts() as interrupted:
        assert not interrupted()
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupted()
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is handler


def test_in_another_thread_nothing_is_installed():
    seen = []

    def work() -> None:
        with note_interrupts() as interrupted:
            seen.append(interrupted())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]
