"""Ends gunicorn with the process that started it, and its workers with it."""

import ctypes
import signal

PR_SET_PDEATHSIG = 1


def die_with_parent():
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def when_ready(server):
    die_with_parent()


def post_fork(server, worker):
    die_with_parent()
