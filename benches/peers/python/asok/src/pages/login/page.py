from asok import Request


def render(request: Request):
    request.session["visitor"] = {"name": "Ada", "visits": 3}
    return request.text(f"csrf_token={request.csrf_token_value}")
