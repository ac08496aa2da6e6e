"""Models behind HTTP, on Ray Serve: OpenAI's chat API, and composing, judging and decomposing beside it.

contract.py    what clients send and get, from which the OpenAPI schema is made
served.py      what is served: the recipe of a run or of a model, and the models by the names that clients have for them
app.py         the routes, with nothing of Ray in them
chat.py        from OpenAI's requests to the engine's, and back
guard.py       around every route: who may ask, how much, how long; errors, metrics, the access log
deployment.py  the application on Ray Serve
command.py     `ultraif serve`
page/          the page at `/`: HTML, CSS and JavaScript
"""
