"""The contract of Label Studio's machine learning backends, on the same server: set up, predict, listen."""

from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

import clip_as_rnn
from clip_as_rnn.apps.server.openapi import REFUSALS, json_body
from clip_as_rnn.apps.server.schema import Settings, parse_json
from clip_as_rnn.apps.server.service import Service
from clip_as_rnn.errors import InputError
from clip_as_rnn.integrations.label_studio import Control, prediction, read_controls, texts_of

_SHOWN_CHARACTERS = 300
VERSION = f"clip-as-rnn {clip_as_rnn.__version__}"


class Setup(BaseModel):
    """What Label Studio sends when a project is connected; what it adds besides is left unread."""

    project: Any = None
    label_config: str = Field(default="", alias="schema")


class Task(BaseModel):
    """One task; `data` names its image."""

    id: Any = None
    data: dict[str, Any]


class Prediction(BaseModel):
    """What Label Studio sends to have tasks labeled."""

    tasks: list[Task] = Field(max_length=1000)
    label_config: str


def add_routes(app: FastAPI, service: Service) -> None:
    """Add the endpoints to the server's."""

    @app.post("/setup", responses=REFUSALS, openapi_extra=json_body(Setup))
    async def setup(request: Request) -> dict[str, str]:
        """Connect a project: nothing is kept, for every request brings its labels."""
        parse_json(Setup, await service.read_body(request))
        return {"model_version": VERSION}

    @app.post("/webhook", status_code=201, responses=REFUSALS)
    async def webhook(request: Request) -> dict[str, str]:
        """Hear of annotations; nothing is trained."""
        await service.read_body(request)
        return {"status": "ok"}

    @app.post("/predict", responses=REFUSALS, openapi_extra=json_body(Prediction))
    async def predict(request: Request) -> Response:
        """Label the images of tasks; the texts are the labels of the project."""
        asked = parse_json(Prediction, await service.read_body(request))
        try:
            controls = read_controls(asked.label_config)
        except InputError as error:
            raise HTTPException(422, str(error)[:_SHOWN_CHARACTERS]) from error
        questions = [
            service.question(await _picture(service, task, controls), texts_of(controls), Settings())
            for task in asked.tasks
        ]
        answers = await service.ask(request, questions) if questions else []
        results = [
            await service.render(prediction, controls, answer.segmentation, answer.segmentation.each_mask(), VERSION)
            for answer in answers
        ]
        return JSONResponse({"results": results})


async def _picture(service: Service, task: Task, controls: list[Control]) -> bytes:
    """Return the image of a task.

    Raises:
        HTTPException: 422, it names none that can be had.
    """
    written = task.data.get(controls[0].data_key)
    if not isinstance(written, str) or not written:
        raise HTTPException(422, f"Task {str(task.id)[:30]} has no image under {controls[0].data_key[:30]!r}.")
    if written.startswith("/"):
        raise HTTPException(
            422, "The image lies in Label Studio itself; give tasks URLs of a listed host or data URLs."
        )
    return await service.picture(written)
