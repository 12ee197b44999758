"""What both Python peers have in common, as the crate `site` has it for the others."""

import mmap
import os
import struct
import threading

PLAIN = "Hello, world!"
SECRET = "sixty-four bytes that are no secret at all since this is but a bench"
CORES = os.cpu_count() or 1


def orders():
    """The 50 rows, as dictionaries: made anew for each request, as rows are serialised elsewhere."""
    return [order(id) for id in range(1, 51)]


def order(id):
    return {
        "id": id,
        "customer": f"Customer {id}",
        "email": f"customer{id}@example.org",
        "cents": id * 1250,
        "note": f"Leave it at door {id}, please",
        "paid": id % 3 == 0,
    }


def new_order(form):
    """The fields of the form, or nothing when they are not valid."""
    email, quantity, note = form.get("email", ""), form.get("quantity", ""), form.get("note", "")
    if "@" not in email or not quantity.isdigit() or not 1 <= int(quantity) <= 100 or len(note) > 1000:
        return None
    return {"email": email, "quantity": int(quantity), "note": note}


class Counts:
    """Counts of all worker processes, in a file that they share: a line of its own for each."""

    LINE, LINES = struct.Struct("QQQ"), 4096

    def __init__(self):
        # The first line is the number of times that /calm was asked for; the others are found by process id.
        self.file = open(os.environ["PEER_COUNTS"], "r+b")
        self.map = mmap.mmap(self.file.fileno(), self.LINE.size * self.LINES)
        self.lock = threading.Lock()

    def mine(self):
        return self.LINE.size * (1 + os.getpid() % (self.LINES - 1))

    def add(self, which):
        with self.lock:
            line = list(self.LINE.unpack_from(self.map, self.mine()))
            line[which] += 1
            self.LINE.pack_into(self.map, self.mine(), *line)

    def sums(self):
        lines = [self.LINE.unpack_from(self.map, self.LINE.size * line) for line in range(1, self.LINES)]
        return " ".join(str(sum(column)) for column in zip(*lines))

    def calmed(self):
        return self.LINE.unpack_from(self.map, 0)[0]

    def calm(self):
        self.LINE.pack_into(self.map, 0, self.calmed() + 1, 0, 0)


COUNTS = Counts()


def charge(order):
    """The work that a form sets aside."""
    COUNTS.add(0)


def until_calm(work):
    began = COUNTS.calmed()
    while COUNTS.calmed() == began:
        work()


def spin():
    """A busy task: a millisecond or two of computing at a time."""

    def work():
        number = 1
        for _ in range(10_000):
            number = number * 6364136223846793005 + 1 & 0xFFFFFFFFFFFFFFFF
        COUNTS.add(1)

    until_calm(work)


def resize():
    """The photo, again and again, file to file."""
    from PIL import Image

    photo = os.environ["PEER_PHOTO"]
    small = os.path.join(os.path.dirname(photo), f"small-{os.getpid()}-{threading.get_ident()}.jpg")

    def work():
        with Image.open(photo) as image:
            image.thumbnail((800, 800))
            image.save(small)
        COUNTS.add(2)

    until_calm(work)
    os.remove(small)
