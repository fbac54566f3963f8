"""Where the samples of a request come from: the model in this process, or a server."""

from collections.abc import Generator
from contextlib import contextmanager
from importlib.metadata import version

from ropewalk.reason.http import Client
from ropewalk.reason.request import ReasonRequest
from ropewalk.reason.run import Source, Watch
from ropewalk.reason.server import Server

LETTERS = 4  # of a token of a server, about


@contextmanager
def opened(request: ReasonRequest, watch: Watch) -> Generator[Source]:
    """The source for the duration. Raises RopewalkError for a model that cannot be loaded."""
    if request.server is not None:
        client = Client(request.server, request.timeout, watch.say)
        about = {"model": request.model, "server": request.server, "encoding": None, "weights": None}
        yield Source(Server(client, request.model, request.chat), lambda text: -(-len(text) // LETTERS), about)
        return
    with local(request, watch) as source:
        yield source


@contextmanager
def local(request: ReasonRequest, watch: Watch) -> Generator[Source]:
    """A model that is loaded here, with the positions that are asked for."""
    from ropewalk.extend.candidates import for_model
    from ropewalk.models.describe import describe, refuse_reordered
    from ropewalk.models.load import load
    from ropewalk.reason.local import Local
    from ropewalk.written import short

    watch.say(f"loading {request.model}")
    loaded = load(request.model, request.dtype, watch.say)
    refuse_reordered(describe(loaded.folder))
    encodings = None
    if request.encoding is not None:
        longest = max(request.lengths or (0,)) if request.tasks() == ["needle"] else 0
        encodings = for_model(request.encoding, loaded, longest).encodings
    weights = [[file.name, file.stat().st_size] for file in sorted(loaded.folder.glob("*.safetensors"))]
    about = {"model": request.model, "server": None, "encoding": short((encodings or loaded.encodings)[0])}
    about |= {"weights": weights, "trained_length": loaded.trained_length}
    about |= {"versions": {name: version(name) for name in ("torch", "transformers")}}
    sampler = Local(loaded, encodings)
    try:
        yield Source(sampler, sampler.count, about)
    finally:
        sampler.close()
