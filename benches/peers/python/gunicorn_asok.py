"""Asok's gunicorn: what `asok deploy` of version 0.8.0 writes, but for the address."""

import multiprocessing

from lifetime import post_fork, when_ready  # noqa: F401

workers = multiprocessing.cpu_count() * 2 + 1
worker_class = "sync"
timeout = 30
keepalive = 2
accesslog = "-"
errorlog = "-"
loglevel = "info"
control_socket_disable = True
