"""What `/openapi.json` promises, held by schemathesis: requests that it allows and many that it does not."""

import subprocess
import sys
from pathlib import Path

from clip_as_rnn.apps.server.limits import Limits
from serving import made_up, serving

# Not asked: that all it allows is accepted. No schema can say of a text in base64 that it is a picture.
CHECKS = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance"),
    *("response_schema_conformance", "negative_data_rejection", "missing_required_header", "unsupported_method"),
)


def test_every_answer_is_one_that_the_description_allows(tmp_path: Path):
    program = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()", "run"]
    options = [
        "--checks",
        ",".join(CHECKS),
        "--phases",
        "examples,coverage,fuzzing",
        "--max-examples",
        "10",
        "--seed",
        "1",
    ]
    with serving(made_up(), Limits(body_seconds=1.0), texts=("dog",)) as client:
        command = [*program, f"{client.url}/openapi.json", *options, "--no-color"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
        assert done.returncode == 0, done.stdout
        assert "9 selected / 9 total" in done.stdout
        assert client.metric('car_requests_total{path="/v1/segment",status="200"}') > 0
        assert client.metric('car_requests_total{path="/v1/segment",status="422"}') > 0
        assert client.metric('car_requests_total{path="/v1/segment",status="500"}') == 0
