"""The endpoints: Hugging Face's image segmentation at `/`, everything at `/v1/segment`, and what operators need."""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.middleware.cors import CORSMiddleware

import clip_as_rnn
from clip_as_rnn.apps.server import label_studio
from clip_as_rnn.apps.server.guard import Guard, refusal
from clip_as_rnn.apps.server.metrics import CONTENT_TYPE
from clip_as_rnn.apps.server.openapi import REFUSALS, document, request_body
from clip_as_rnn.apps.server.render import full_response, hugging_face_rows
from clip_as_rnn.apps.server.schema import (
    Failure,
    HuggingFaceRequest,
    HuggingFaceSegment,
    Parameters,
    SegmentOptions,
    SegmentRequest,
    SegmentResponse,
    Settings,
    parse_json,
    parse_query,
)
from clip_as_rnn.apps.server.service import Service

_PAGE = Path(__file__).parent / "static" / "docs.html"
_STATUS = {"status": "UP", "model_class": "clip-as-rnn"}  # as Label Studio asks for it


def create_app(service: Service, *, token: str | None = None, origins: Collection[str] = ()) -> Guard:
    """Put the server's application together.

    Args:
        service: what answers.
        token: what clients must show; None lets everybody in who is on this machine.
        origins: pages that may call this server from a browser.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.stop()

    app = FastAPI(
        title="clip-as-rnn",
        version=clip_as_rnn.__version__,
        description="A picture and any words in; masks, scores, and the words that are not there out.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
        exception_handlers={AnyHTTPException: _refuse, Exception: _fail},
    )
    _add_segmentation(app, service)
    _add_operations(app, service)
    label_studio.add_routes(app, service)
    bodies = (HuggingFaceRequest, SegmentRequest, label_studio.Setup, label_studio.Prediction)
    app.openapi = lambda: document(app, bodies)  # type: ignore[method-assign] # FastAPI's own way to extend it
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
        )
    limits = service.limits
    return Guard(app, token=token, origins=origins, body_bytes=limits.body_bytes, metrics=service.metrics)


def _add_segmentation(app: FastAPI, service: Service) -> None:
    hugging_face_body = request_body(HuggingFaceRequest, Parameters)
    segment_body = request_body(SegmentRequest, SegmentOptions)

    @app.post("/", responses={200: {"model": list[HuggingFaceSegment]}, **REFUSALS}, openapi_extra=hugging_face_body)
    async def hugging_face(request: Request) -> Response:
        """Segment as Hugging Face's `image-segmentation` task does, for its clients and those like them."""
        body = await service.read_body(request)
        if is_json(request, body):
            refuse_query(request)
            asked = parse_json(HuggingFaceRequest, body)
            picture, parameters = await service.picture(asked.inputs), asked.parameters or Parameters()
        else:
            picture, parameters = body, parse_query(Parameters, request.query_params.multi_items())
        labels = parameters.candidate_labels
        texts = labels.split(",") if isinstance(labels, str) else labels
        settings = Settings(mask_threshold=parameters.mask_threshold)
        question = service.question(picture, texts, settings)
        (answer,) = await service.ask(request, [question])
        return JSONResponse(await service.render(hugging_face_rows, answer, parameters.threshold or 0.0))

    @app.post("/v1/segment", responses={200: {"model": SegmentResponse}, **REFUSALS}, openapi_extra=segment_body)
    async def segment(request: Request) -> Response:
        """Segment, and say all that is known: masks, boxes, scores, rejections and why, steps, seconds, settings."""
        body = await service.read_body(request)
        options: SegmentOptions
        if is_json(request, body):
            refuse_query(request)
            asked = parse_json(SegmentRequest, body)
            picture, options, settings = await service.picture(asked.image), asked, asked.settings
        else:
            picture, settings = body, Settings()
            options = parse_query(SegmentOptions, request.query_params.multi_items())
        question = service.question(picture, options.texts, settings, trace=options.trace)
        (answer,) = await service.ask(request, [question])
        return JSONResponse(await service.render(full_response, answer, options.masks, service.preset))


def _add_operations(app: FastAPI, service: Service) -> None:
    @app.get("/")
    @app.get("/health")
    async def health() -> dict[str, str]:
        """Say that the process is alive."""
        return _STATUS

    @app.get("/ready", responses={503: {"model": Failure, "description": "Busy or ending"}})
    async def ready() -> dict[str, str]:
        """Say whether another picture would be taken: the models are loaded, and there is room."""
        service.check_room()
        return {"status": "READY"}

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Count requests, batches, texts and seconds, in Prometheus' text format."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(_PAGE.read_text(encoding="utf-8"))


def is_json(request: Request, body: bytes) -> bool:
    """Tell JSON from a picture: by its type, or by its first character, for clients send pictures under any type."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind == "application/json" or body[:64].lstrip()[:1] == b"{"


def refuse_query(request: Request) -> None:
    """Raise HTTPException, 422, if the address of a request in JSON asks for something; it would be overheard."""
    if request.url.query:
        raise HTTPException(422, "Expected all that is asked in the JSON, but something stands in the URL behind `?`.")


async def _refuse(_: Request, error: Exception) -> Response:
    response = refusal(error) if isinstance(error, AnyHTTPException) else await _fail(_, error)
    if response.status_code in (408, 413):
        response.headers["Connection"] = "close"  # the rest of the body is not waited for
    return response


async def _fail(_: Request, __: Exception) -> Response:
    return refusal(HTTPException(500, "This request failed."))
