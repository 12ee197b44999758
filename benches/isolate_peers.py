"""The work of benches/isolate.rs, done by concurrent.futures.ProcessPoolExecutor, for comparison in the same run.

    isolate_peers.py CALLS
"""

import sys
import time
from concurrent.futures import ProcessPoolExecutor

ROUNDS = 15
STEPS = 3_000_000


def nothing(_):
    return None


def echo(text):
    return text


def compute(steps):
    value = 1
    for step in range(steps):
        value = ((value ^ step) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return value


def timed(f):
    began = time.perf_counter()
    f()
    return time.perf_counter() - began


def first():
    pool = ProcessPoolExecutor(2)
    took = timed(lambda: pool.submit(nothing, None).result())
    pool.shutdown()
    return took


def say(what, times):
    times.sort()
    p50, p99 = (times[int((len(times) - 1) * part)] * 1e6 for part in (0.5, 0.99))
    print(f"  Python, {what}: p50 {p50:.0f} µs, p99 {p99:.0f} µs, of {len(times)}")


def main():
    calls = int(sys.argv[1])
    say("first call of an empty function, with the start of the process", [first() for _ in range(ROUNDS)])
    text = "x" * (1 << 20)
    with ProcessPoolExecutor(2) as pool:
        pool.submit(nothing, None).result()
        say("warm call of an empty function", [timed(lambda: pool.submit(nothing, None).result()) for _ in range(calls)])
        say("the same, with 1 MiB in and out", [timed(lambda: pool.submit(echo, text).result()) for _ in range(100)])

        def both():
            for call in [pool.submit(compute, STEPS) for _ in range(2)]:
                call.result()

        both()
        ratios = []
        for _ in range(ROUNDS):
            one = timed(lambda: pool.submit(compute, STEPS).result())
            ratios.append(timed(both) / one)
        ratios.sort()
        print(
            f"  Python, two calls that compute, in the time of one: {ratios[ROUNDS // 2]:.2f} "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )


if __name__ == "__main__":
    main()
