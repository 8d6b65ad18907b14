"""Locks between processes."""

import fcntl
import multiprocessing
import threading

from mousefacelift.base.files import locked


def test_two_processes_never_train_the_same_run(tmp_path, capsys):
    entered = threading.Event()

    def second():
        with locked(tmp_path / "run" / "lock", "another process trains this very run"):
            entered.set()

    with locked(tmp_path / "run" / "lock", "another process trains this very run"):
        thread = threading.Thread(target=second)
        thread.start()
        assert not entered.wait(0.2)
    thread.join(5)
    assert entered.is_set() and "another process trains this very run" in capsys.readouterr().err
    with (tmp_path / "run" / "lock").open() as handle:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released


def test_the_lock_is_released_although_a_loader_process_lives_on(tmp_path):
    ready, end = multiprocessing.Event(), multiprocessing.Event()

    def loader():
        ready.set()
        end.wait(60)

    lock = tmp_path / "run" / "lock"
    with locked(lock, "another process works"):
        process = multiprocessing.get_context("fork").Process(target=loader)
        process.start()
        assert ready.wait(20)
    try:
        with lock.open() as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        end.set()
        process.join()
