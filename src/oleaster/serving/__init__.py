"""A model that answers over HTTP, in the words of OpenAI's API.

    build_app(models)         /v1/models, /v1/completions, /v1/chat/completions, /health                 app.py
    ChatRequest, TextRequest  what a client may ask; what cannot be done is refused by name         requests.py

Knows neither torch nor ONNX Runtime: whoever serves hands over what answers (`Answering`).
"""

from oleaster.serving.app import Answering, Served, build_app

__all__ = ["Answering", "Served", "build_app"]
