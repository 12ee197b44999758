"""The work of benches/image.rs, done by Pillow, for comparison in the same run.

Each line on standard input is a file, the file to make of it, and the quality, separated by tabs; the answer is how many
milliseconds that took.
"""

import sys
import time

from PIL import Image

for line in sys.stdin:
    source, target, quality = line.rstrip("\n").split("\t")
    began = time.perf_counter()
    with Image.open(source) as image:
        image.thumbnail((800, 800), Image.Resampling.LANCZOS)  # reads a JPEG at a part of its size by itself
        image.save(target, quality=int(quality))
    print((time.perf_counter() - began) * 1000, flush=True)
