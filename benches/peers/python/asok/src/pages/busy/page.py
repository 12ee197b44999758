import peer
from asok import Request, background


def render(request: Request):
    for _ in range(peer.CORES):
        background(peer.spin)
    return request.text("busy")
