"""Flask's gunicorn: a process for each core, each with threads, and its other defaults."""

import multiprocessing

from lifetime import post_fork, when_ready  # noqa: F401

workers = multiprocessing.cpu_count()
worker_class = "gthread"
threads = 8
control_socket_disable = True
