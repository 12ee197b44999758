import peer
from asok import Request, background


def get(request: Request):
    visitor = request.session.get("visitor") or {"name": "nobody", "visits": 0}
    return request.html("page.html", visitor=visitor, orders=peer.orders())


def post(request: Request):
    order = peer.new_order(request.form)
    if order is None:
        return request.text("", status=422)
    background(peer.charge, order)
    request.redirect("/orders")
