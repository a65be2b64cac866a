"""The bridge's signatures against other libraries' verifiers, and its verifier against forgeries."""

import base64
import json
import os
import re
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st
from openai import OpenAI
from standardwebhooks import Webhook as StandardWebhook
from svix.webhooks import Webhook as SvixWebhook

from bridge.core.signing import (
    MismatchCode,
    Secret,
    SignatureMismatch,
    Signer,
    SigningKey,
    new_secret,
    parse_secret,
    parse_signing_key,
    sign,
    verify,
)
from tests.programs import npm_install

NOW = 1_795_446_245
BODY = '{"type":"video.completed","data":{"prompt":"öäü 🎬"}}'.encode()
CURRENT = new_secret(b"\xfb\xff" * 16)  # its base64 holds "+" and "/"
OLDER = new_secret(bytes(range(24)))
UNKNOWN = new_secret(b"s" * 64)
KEY = SigningKey(bytes(range(32)))


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


@pytest.fixture
def headers() -> dict[str, str]:
    return Signer([CURRENT, OLDER], KEY).headers("evt_1", NOW, BODY)


# --- secrets ------------------------------------------------------------------------------------------------------


@given(st.binary(min_size=24, max_size=64))
def test_a_secret_is_read_back_from_its_text(raw: bytes) -> None:
    assert parse_secret(new_secret(raw).text) == Secret(raw)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "must begin with whsec_"),
        (b64(b"x" * 32), "must begin with whsec_"),
        ("WHSEC_" + b64(b"x" * 32), "must begin with whsec_"),
        ("whsec_", "base64"),
        ("whsec_not base64 at all!", "base64"),
        ("whsec_" + b64(b"x" * 32).rstrip("="), "padded"),
        ("whsec_" + base64.urlsafe_b64encode(b"\xfb\xff" * 16).decode(), "not - and _"),
        ("whsec_" + b64(b"x" * 32) + "\n", "base64"),
        ("whsec_ " + b64(b"x" * 32), "base64"),
        ("whsec_" + b64(b"x" * 32) + "=", "base64"),
        ("whsec_" + "A" * 42 + "B=", "base64"),  # stray bits at the end
        ("whsec_" + "ä" * 32, "base64"),
        ("whsec_" + b64(b"x" * 23), "this one has 23"),
        ("whsec_" + b64(b"x" * 65), "this one has 65"),
    ],
)
def test_other_forms_of_a_secret_are_refused_and_not_repeated(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as refused:
        parse_secret(text)
    if len(text) > 10:
        assert text.removeprefix("whsec_") not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("secret", "a signing secret must begin with whsec_"),
        ("whsec_?", "a signing secret must be whsec_ and padded standard base64 (with + and /, not - and _)"),
    ],
)
def test_the_message_for_a_refused_secret_says_what_is_expected(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        parse_secret(text)


@pytest.mark.parametrize("size", [0, 23, 65])
def test_new_secrets_have_the_standard_length(size: int) -> None:
    with pytest.raises(ValueError, match="24 to 64 bytes"):
        new_secret(b"x" * size)


def test_reprs_show_no_secret() -> None:
    assert repr(CURRENT) == "Secret()"
    assert repr(KEY) == "SigningKey()"


# --- signing keys -------------------------------------------------------------------------------------------------


@pytest.fixture
def public_raw() -> bytes:
    return Ed25519PrivateKey.from_private_bytes(KEY.seed).public_key().public_bytes_raw()


def test_a_signing_key_is_read_from_its_seed_or_from_seed_and_public_key(public_raw: bytes) -> None:
    assert parse_signing_key("whsk_" + b64(KEY.seed)) == KEY
    assert parse_signing_key("whsk_" + b64(KEY.seed + public_raw)) == KEY
    assert parse_signing_key(KEY.text) == KEY
    assert KEY.public_text == "whpk_" + b64(public_raw)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("whsec_" + b64(b"x" * 32), "^a signing key must begin with whsk_$"),
        ("whsk_" + b64(b"x" * 31), "^a signing key must have 32 or 64 bytes; this one has 31$"),
        ("whsk_" + b64(b"x" * 64), "^the second half of a signing key must be the public key of the first half$"),
        ("whsk_?", "^a signing key must be whsk_ and padded standard base64"),
    ],
)
def test_other_signing_keys_are_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_signing_key(text)


def test_v1a_is_an_ed25519_signature_of_the_same_content(headers: Mapping[str, str], public_raw: bytes) -> None:
    version, _, signature = headers["webhook-signature"].split(" ")[-1].partition(",")
    public = Ed25519PublicKey.from_public_bytes(public_raw)
    assert version == "v1a"
    public.verify(base64.b64decode(signature), b"evt_1.%d.%s" % (NOW, BODY))
    with pytest.raises(InvalidSignature):
        public.verify(base64.b64decode(signature), b"evt_2.%d.%s" % (NOW, BODY))


# --- signing ------------------------------------------------------------------------------------------------------


def test_the_standards_own_example() -> None:
    secret = parse_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    assert sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, b'{"test": 2432232314}', [secret]) == (
        "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    )


def test_there_is_one_signature_for_each_secret_in_order_then_the_keys(headers: Mapping[str, str]) -> None:
    signatures = headers["webhook-signature"].split(" ")
    assert signatures[:2] == [sign("evt_1", NOW, BODY, [CURRENT]), sign("evt_1", NOW, BODY, [OLDER])]
    assert [signature.split(",")[0] for signature in signatures] == ["v1", "v1", "v1a"]
    assert (headers["webhook-id"], headers["webhook-timestamp"]) == ("evt_1", str(NOW))


def test_a_watchs_own_secret_replaces_the_configured_ones_and_the_key_still_signs() -> None:
    signature = Signer([CURRENT, OLDER], KEY).headers("evt_1", NOW, BODY, UNKNOWN.text)["webhook-signature"]
    assert signature == sign("evt_1", NOW, BODY, [UNKNOWN], KEY)


def test_a_malformed_own_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="base64"):
        Signer([CURRENT]).headers("evt_1", NOW, BODY, "whsec_not-base64")


def test_a_signer_reads_its_secrets_at_each_call() -> None:
    secrets = [OLDER]
    signer = Signer(secrets)
    secrets.insert(0, CURRENT)
    assert signer.headers("evt_1", NOW, BODY)["webhook-signature"] == sign("evt_1", NOW, BODY, [CURRENT, OLDER])


@pytest.mark.parametrize("event_id", ["", "evt.1", "evt_ä"])
def test_an_id_that_makes_the_signed_content_ambiguous_is_refused(event_id: str) -> None:
    with pytest.raises(ValueError, match="event id"):
        sign(event_id, NOW, BODY, [CURRENT])


@pytest.mark.parametrize("secret", [CURRENT, OLDER])
def test_every_python_library_accepts_either_secret(secret: Secret) -> None:
    now = int(time.time())  # the libraries read the clock themselves
    headers = Signer([CURRENT, OLDER], KEY).headers("evt_1", now, BODY)
    text = BODY.decode()
    assert StandardWebhook(secret.text).verify(text, headers) == json.loads(BODY)
    SvixWebhook(secret.text).verify(text, headers)
    unwrapped = OpenAI(api_key="made-up", webhook_secret=secret.text).webhooks.unwrap(text, headers)
    assert unwrapped.type == "video.completed"  # type: ignore[comparison-overlap]  # not one of OpenAI's own events


NODE_VERIFY = """
const { Webhook } = require("standardwebhooks");
let body = "";
process.stdin.on("data", (part) => { body += part; }).on("end", () => {
  const { secrets, headers } = JSON.parse(process.env.SIGNED);
  for (const secret of secrets) { console.log(new Webhook(secret).verify(body, headers).type); }
});
"""


@pytest.fixture(scope="session")
def node_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with the npm package `standardwebhooks`. Without npm or its registry the test is skipped or,
    in CI, fails.
    """
    folder = tmp_path_factory.mktemp("node")
    npm_install(folder, "standardwebhooks@1")
    return folder


def test_the_javascript_library_accepts_either_secret(node_folder: Path) -> None:
    headers = Signer([CURRENT, OLDER], KEY).headers("evt_1", int(time.time()), BODY)
    signed = json.dumps({"secrets": [CURRENT.text, OLDER.text], "headers": headers})
    done = subprocess.run(
        ["node", "-e", NODE_VERIFY],
        cwd=node_folder,
        input=BODY,
        env={**os.environ, "SIGNED": signed},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout.decode().split()) == (0, ["video.completed"] * 2), done.stderr.decode()


# --- verifying ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("secrets", [[CURRENT], [OLDER], [UNKNOWN, OLDER]])
@pytest.mark.parametrize("late", [-300, 0, 299.9, 300])
def test_a_signed_message_is_verified_for_five_minutes_before_and_after(
    headers: dict[str, str], secrets: list[Secret], late: float
) -> None:
    verify(headers, BODY, secrets, now=NOW + late)
    verify({name.title(): value for name, value in headers.items()}, BODY, secrets, now=NOW + late)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"webhook-id": "evt_2"}, "no signature matches"),
        ({"webhook-id": ""}, "must all be given"),
        ({"webhook-timestamp": str(NOW + 1)}, "no signature matches"),
        ({"webhook-timestamp": "soon"}, "timestamp is malformed"),
        ({"webhook-timestamp": f"{NOW}.0"}, "timestamp is malformed"),
        ({"webhook-timestamp": "-1"}, "timestamp is malformed"),
        ({"webhook-timestamp": "١٧٩٥٤٤٦٢٤٥"}, "timestamp is malformed"),
        ({"webhook-timestamp": "9" * 5000}, "timestamp is malformed"),
        ({"webhook-timestamp": "9" * 13}, "^webhook-timestamp is malformed: it must be whole Unix seconds$"),
        ({"webhook-timestamp": "9" * 12}, "^webhook-timestamp is too new: by "),
        ({"webhook-timestamp": str(NOW - 301)}, "too old: by 1 s"),
        ({"webhook-timestamp": str(NOW + 310)}, "too new: by 10 s"),
        ({"webhook-signature": ""}, "must all be given"),
        ({"webhook-signature": "v1"}, "^webhook-signature is malformed: it has no v1,<base64> signature$"),
        ({"webhook-signature": "v1,AAAA,AAAA"}, "^no signature matches: another secret signed this, or the body was "),
        ({"webhook-signature": "v1,"}, "signature is malformed"),
        ({"webhook-signature": "v2,AAAA v1a,AAAA"}, "signature is malformed"),
        ({"webhook-signature": "v1,\udcff\ud800ä"}, "no signature matches"),
        ({"webhook-signature": sign("evt_1", NOW, BODY, [UNKNOWN])}, "no signature matches"),
    ],
)
def test_a_changed_message_is_refused_with_the_reason(
    headers: dict[str, str], changed: dict[str, str], reason: str
) -> None:
    codes = {
        "must all be given": MismatchCode.MISSING,
        "malformed": MismatchCode.MALFORMED,
        "too old": MismatchCode.TOO_OLD,
        "too new": MismatchCode.TOO_NEW,
        "no signature matches": MismatchCode.NO_MATCH,
    }
    with pytest.raises(SignatureMismatch, match=reason) as mismatch:
        verify(headers | changed, BODY, [CURRENT], now=NOW)
    assert [code for words, code in codes.items() if words in reason] == [mismatch.value.code]


def test_a_changed_body_no_secret_or_no_headers_are_refused(headers: dict[str, str]) -> None:
    with pytest.raises(SignatureMismatch, match="no signature matches"):
        verify(headers, BODY + b" ", [CURRENT], now=NOW)
    with pytest.raises(SignatureMismatch, match="no signature matches"):
        verify(headers, BODY, [], now=NOW)
    with pytest.raises(SignatureMismatch, match="^webhook-id, webhook-timestamp, webhook-signature must all be given$"):
        verify({}, BODY, [CURRENT], now=NOW)


@given(st.text(), st.text(), st.text(), st.binary())
def test_verify_raises_nothing_but_a_mismatch(event_id: str, timestamp: str, signature: str, body: bytes) -> None:
    headers = {"webhook-id": event_id, "webhook-timestamp": timestamp, "webhook-signature": signature}
    with pytest.raises(SignatureMismatch):
        verify(headers, body, [CURRENT], now=NOW)


def test_lone_surrogates_in_an_id_are_a_mismatch(headers: dict[str, str]) -> None:
    with pytest.raises(SignatureMismatch, match="no signature matches"):
        verify(headers | {"webhook-id": "\ud800"}, BODY, [CURRENT], now=NOW)
