"""The description of the endpoints at `/openapi.json`: FastAPI's own, with bodies that are a picture or JSON."""

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from clip_as_rnn.apps.server.schema import Failure

_REFERENCE = "#/components/schemas/{model}"
_PICTURES = ("image/jpeg", "image/png", "application/octet-stream")

REFUSALS: dict[int | str, dict[str, Any]] = {
    401: {"model": Failure, "description": "No valid token"},
    408: {"model": Failure, "description": "The body took too long to arrive"},
    413: {"model": Failure, "description": "The body or the picture is too large"},
    422: {"model": Failure, "description": "The request cannot be answered as it is; the sentence says why"},
    503: {"model": Failure, "description": "Busy; Retry-After says when to ask again"},
    504: {"model": Failure, "description": "It took too long"},
}


def json_body(model: type[BaseModel]) -> dict[str, Any]:
    """Describe a body that is JSON of `model`."""
    reference = {"schema": {"$ref": _REFERENCE.format(model=model.__name__)}}
    return {"requestBody": {"required": True, "content": {"application/json": reference}}}


def request_body(model: type[BaseModel], query: type[BaseModel]) -> dict[str, Any]:
    """Describe a body that is JSON of `model`, or a picture's file with the fields of `query` in the URL."""
    picture = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in _PICTURES}
    described = json_body(model)
    described["requestBody"]["content"] |= picture
    return {
        **described,
        "parameters": [
            {"name": name, "in": "query", "required": False, "schema": schema}
            for name, schema in query.model_json_schema(ref_template=_REFERENCE)["properties"].items()
        ],
    }


def document(app: FastAPI, models: Sequence[type[BaseModel]]) -> dict[str, Any]:
    """Return the whole description, `models` being those of the bodies; made once."""
    if app.openapi_schema is None:
        described = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        schemas = described.setdefault("components", {}).setdefault("schemas", {})
        for model in models:
            schema = model.model_json_schema(ref_template=_REFERENCE)
            schemas.update(schema.pop("$defs", {}))
            schemas[model.__name__] = schema
        schemes = {"bearer": {"type": "http", "scheme": "bearer"}, "basic": {"type": "http", "scheme": "basic"}}
        described["components"]["securitySchemes"] = schemes
        app.openapi_schema = described
    return app.openapi_schema
