import peer
from asok import Request


def render(request: Request):
    return request.text(peer.PLAIN)
