import peer
from asok import Request


def render(request: Request):
    peer.COUNTS.calm()
    return request.text("calm")
