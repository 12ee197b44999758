"""The pages in Flask."""

import os
from concurrent.futures import ThreadPoolExecutor

import peer
from flask import Flask, Response, redirect, render_template, request, session

app = Flask(__name__, template_folder=os.environ["PEER_TEMPLATES"])
app.secret_key = peer.SECRET
executor = ThreadPoolExecutor()


@app.get("/plain")
def plain():
    return Response(peer.PLAIN, mimetype="text/plain")


@app.get("/login")
def login():
    session["visitor"] = {"name": "Ada", "visits": 3}
    return "welcome"


@app.get("/orders")
def orders():
    visitor = session.get("visitor") or {"name": "nobody", "visits": 0}
    return render_template("orders.html", visitor=visitor, orders=peer.orders())


@app.post("/orders")
def create_order():
    order = peer.new_order(request.form)
    if order is None:
        return "", 422
    executor.submit(peer.charge, order)
    return redirect("/orders", code=303)


@app.get("/done")
def done():
    return peer.COUNTS.sums()


@app.get("/busy")
def busy():
    return each_core(peer.spin)


@app.get("/resize")
def resize():
    return each_core(peer.resize)


@app.get("/calm")
def calm():
    peer.COUNTS.calm()
    return "calm"


def each_core(work):
    for _ in range(peer.CORES):
        executor.submit(work)
    return "busy"
