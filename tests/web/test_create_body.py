"""The model in the body of a create call."""

import aiohttp
import pytest

from bridge.amux.proxy import Upload
from bridge.web.api.create_body import model_in


async def form(**fields: str) -> tuple[str, bytes]:
    writer = aiohttp.MultipartWriter("form-data")
    for name, value in fields.items():
        writer.append(value).set_content_disposition("form-data", name=name)
    return writer.headers["Content-Type"], await writer.as_bytes()


@pytest.mark.parametrize(
    ("body", "model"),
    [
        (b'{"model": "sora-2", "prompt": "a cat"}', "sora-2"),
        (b'{"model": 7}', None),
        (b'{"model": ""}', None),
        (b'{"model": "a\\nb"}', None),
        (b'["model"]', None),
        (b"{", None),
        (b"", None),
        (b"\xff", None),
    ],
)
def test_the_model_of_a_json_body_is_read(body: bytes, model: str | None) -> None:
    assert model_in("application/json", body) == model


async def test_the_model_of_a_form_is_read() -> None:
    assert model_in(*await form(prompt="a cat", model="sora-2", seconds="8")) == "sora-2"
    assert model_in(*await form(prompt="my model")) is None
    plain = (
        b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nhi\r\n'
        b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nveo\r\n--x--\r\n'
    )
    assert model_in("multipart/form-data; boundary=x", plain) == "veo"


def test_a_streamed_body_is_not_read() -> None:
    assert model_in("application/json", Upload(aiohttp.StreamReader.__new__(aiohttp.StreamReader))) is None
