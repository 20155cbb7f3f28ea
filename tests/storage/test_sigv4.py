"""Signatures against the examples that AWS publishes."""

from __future__ import annotations

import hashlib

import pytest

from fawa.storage.sigv4 import MAX_LINK_TTL, Credentials, encode_query, sign_link, sign_request

CREDENTIALS = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "us-east-1")
HOST = "examplebucket.s3.amazonaws.com"
TIME = "20130524T000000Z"
EMPTY = hashlib.sha256(b"").hexdigest()


@pytest.mark.parametrize(
    ("path", "parameters", "headers", "signature"),
    [
        (
            "/test.txt",
            {},
            {"range": "bytes=0-9"},
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        ),
        (
            "/",
            {"lifecycle": ""},
            {},
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
        ),
        (
            "/",
            {"prefix": "J", "max-keys": "2"},
            {},
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        ),
    ],
    ids=["object", "bucket", "query"],
)
def test_requests(path: str, parameters: dict[str, str], headers: dict[str, str], signature: str) -> None:
    given = {"host": HOST, **headers}
    signed = sign_request(CREDENTIALS, "GET", path, encode_query(parameters), given, EMPTY, TIME)
    names = ";".join(sorted([*given, "x-amz-content-sha256", "x-amz-date"]))
    assert signed == {
        **given,
        "x-amz-content-sha256": EMPTY,
        "x-amz-date": TIME,
        "authorization": "AWS4-HMAC-SHA256 "
        "Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, "
        f"SignedHeaders={names}, Signature={signature}",
    }


def test_a_link() -> None:
    assert sign_link(CREDENTIALS, HOST, "/test.txt", {}, TIME, 86400) == (
        "X-Amz-Algorithm=AWS4-HMAC-SHA256"
        "&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request"
        "&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host"
        "&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
    )


@pytest.mark.parametrize("seconds", [0, -1, MAX_LINK_TTL + 1])
def test_a_link_that_no_service_takes(seconds: int) -> None:
    with pytest.raises(ValueError, match="a link is valid for 1 to 604800 seconds"):
        sign_link(CREDENTIALS, HOST, "/test.txt", {}, TIME, seconds)


def test_the_secret_is_not_printed() -> None:
    assert CREDENTIALS.secret_key not in repr(CREDENTIALS)
