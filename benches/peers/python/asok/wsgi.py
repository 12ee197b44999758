"""The pages in Asok: one folder under src/pages for each."""

from asok import Asok

app = Asok()
# 100 requests a minute from one address are its default: too few for any load.
app.config["RATE_LIMIT"] = False
