"""The work of benches/jobs.rs, done by Huey, RQ and Sidekiq, for comparison in the same run.

    jobs_peers.py huey FILE full|off        SqliteHuey, synchronous=FULL or OFF (fsync=True, False)
    jobs_peers.py rq URL simple|fork        RQ, four processes of SimpleWorker or of Worker, which forks for each job
    jobs_peers.py sidekiq URL 1|4           Sidekiq, one process with four threads or four with one each (jobs_peers.rb)

The last line: jobs enqueued in a second, and jobs done in a second. Starting Python or Ruby is in neither.
"""

import itertools
import logging
import multiprocessing
import os
import subprocess
import sys
import threading
import time

ENQUEUERS = 8
WORKERS = 4
SECONDS = 1.0


def empty():
    """What RQ finds by its name."""


def enqueue_for_a_while(enqueue, until):
    for count in itertools.count(1):
        enqueue()
        if time.monotonic() >= until:
            return count


def by_threads(enqueue):
    """Jobs a second, from eight threads of this process."""
    counts, began = [], time.monotonic()
    work = lambda: counts.append(enqueue_for_a_while(enqueue, began + SECONDS))
    threads = [threading.Thread(target=work) for _ in range(ENQUEUERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.monotonic() - began)


def by_processes(make):
    """Jobs a second, from eight processes: what enqueues is made in each of them."""
    go, counts = multiprocessing.Event(), multiprocessing.Queue()
    ready = multiprocessing.Semaphore(0)

    def work():
        enqueue = make()
        enqueue()
        ready.release()
        go.wait()
        counts.put(enqueue_for_a_while(enqueue, time.monotonic() + SECONDS))

    processes = [multiprocessing.Process(target=work) for _ in range(ENQUEUERS)]
    for process in processes:
        process.start()
    for _ in processes:
        ready.acquire()
    began = time.monotonic()
    go.set()
    enqueued = sum(counts.get() for _ in processes)
    took = time.monotonic() - began
    for process in processes:
        process.join()
    return enqueued / took


def huey(path, sync):
    from huey import SqliteHuey

    is_full = sync == "full"
    make = lambda name: SqliteHuey(filename=f"{path}-{name}.db", fsync=is_full, timeout=30)

    def enqueuer():
        queue = make("processes")
        return queue.task()(empty_task)

    by_thread = by_threads(make("threads").task()(empty_task))
    make("processes")
    enqueued = max(by_thread, by_processes(enqueuer))

    done, all_done, many = itertools.count(1), threading.Event(), 2_000 if is_full else 10_000

    def counted():
        if next(done) == many:
            all_done.set()

    queue = make("drain")
    task = queue.task(name="counted")(counted)
    queue.storage.sql("begin")
    for _ in range(many):
        queue.storage.sql(
            "insert into task (queue, data, priority) values (?, ?, ?)",
            (queue.name, queue.serialize_task(task.s()), 0),
        )
    queue.storage.sql("commit")
    consumer = queue.create_consumer(workers=WORKERS, worker_type="thread", periodic=False)
    began = time.monotonic()
    consumer.start()
    all_done.wait()
    took = time.monotonic() - began
    consumer.stop(graceful=True)
    return enqueued, many / took


def empty_task():
    pass


def rq(url, kind):
    from redis import Redis
    from rq import Queue, SimpleWorker, Worker

    import jobs_peers

    connect = lambda: Queue(connection=Redis.from_url(url))

    def enqueuer():
        queue = connect()
        return lambda: queue.enqueue(jobs_peers.empty)

    enqueued = max(by_threads(enqueuer()), by_processes(enqueuer))

    queue = connect()
    queue.connection.flushall()
    many = 2_000 if kind == "simple" else 200
    queue.enqueue_many([Queue.prepare_data(jobs_peers.empty) for _ in range(many)])
    worker_type = SimpleWorker if kind == "simple" else Worker
    go, ready = multiprocessing.Event(), multiprocessing.Semaphore(0)

    def work():
        connection = Redis.from_url(url)
        worker = worker_type([Queue(connection=connection)], connection=connection)
        ready.release()
        go.wait()
        worker.work(burst=True, logging_level="ERROR")

    processes = [multiprocessing.Process(target=work) for _ in range(WORKERS)]
    for process in processes:
        process.start()
    for _ in processes:
        ready.acquire()
    began = time.monotonic()
    go.set()
    while queue.finished_job_registry.count < many:
        time.sleep(0.002)
    took = time.monotonic() - began
    for process in processes:
        process.join()
    return enqueued, many / took


def sidekiq(url, processes):
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "jobs_peers.rb")
    command = ["ruby", script, url, processes, str(WORKERS // int(processes))]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return output.splitlines()[-1].split()


if __name__ == "__main__":
    multiprocessing.set_start_method("fork")
    logging.basicConfig(level=logging.ERROR)
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    enqueued, drained = {"huey": huey, "rq": rq, "sidekiq": sidekiq}[sys.argv[1]](*sys.argv[2:])
    print(enqueued, drained)
