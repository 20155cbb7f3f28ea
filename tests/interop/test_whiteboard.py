"""The whiteboard with clients that others wrote, and that know nothing of fawa."""

from __future__ import annotations

import asyncio
import importlib
import json
import subprocess
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
import pytest
from protobuf import Oneof

from tests.interop import expect
from tests.interop.target import Target
from tests.interop.test_connectrpc import STYLES, Style, each, http_client
from tests.interop.whiteboard import ask, collaborator, new_board, person, resume_of


def test_v1_clients_draw_together(target: Target) -> None:
    code = new_board(target)
    with person(target, code) as ann, person(target, code.lower()) as bob:
        ann.draw(1, 2)
        bob.hear_xs(1, 2)
        ann.say({"draw_event": {"type": "ping"}})
        bob.draw(3)
        ann.hear_xs(1, 2, 3)
        bob.hear_xs(1, 2, 3)
        [first, *_] = ann.heard
        assert first["draw_event"].keys() == {
            *("type", "color", "size", "prev_x", "prev_y", "curr_x", "curr_y", "client_id", "time")
        }
        with person(target, code) as late:
            late.hear_xs(1, 2, 3)
            assert list(late.heard[0]) == ["initial_history"]
        assert ann.heard == bob.heard


def test_browsers_and_grpc_meet_on_one_board(target: Target, canva: Any, canva_grpc: Any) -> None:
    code = new_board(target)
    with (
        person(target, code) as ann,
        person(target, code, v2=True, name="Bea") as bea,
        collaborator(target, canva, canva_grpc, code.lower()) as cem,
    ):
        cem.hear_history()
        ann.draw(1)
        bea.hear_xs(1)
        bea.draw_v2(1, 2, 3)
        ann.hear_xs(1, 2, 3)
        cem.hear_xs(1, 2, 3)
        cem.draw(4)
        for somebody in (ann, bea, cem):
            somebody.hear_xs(1, 2, 3, 4)
        client_ids = [one["draw_event"]["client_id"] for one in ann.heard]
        assert [message.draw_event.client_id for message in cem.heard[1:]] == client_ids
        assert client_ids[1] == bea.hello["client_id"]
        assert len(set(client_ids)) == 3
        with collaborator(target, canva, canva_grpc, code) as late:
            late.hear_xs(1, 2, 3, 4)
            assert late.heard[0].WhichOneof("message") == "initial_history"
        with person(target, code, v2=True) as late:
            late.hear_xs(1, 2, 3, 4)
            assert late.hello["seq"] == 4


def test_who_returns_misses_nothing(target: Target) -> None:
    code = new_board(target)
    with person(target, code) as ann:
        with person(target, code, v2=True) as bea:
            bea.draw_v2(1, 1, 2)
            bea.hear_xs(1, 2)
        ann.draw(3)
        ann.hear_xs(1, 2, 3)
        with person(target, code, v2=True, resume=resume_of(bea.hello, 2)) as again:
            assert (again.hello["client_id"], again.hello["recovered"]) == (bea.hello["client_id"], True)
            assert again.hello["op"] == 2
            # It is not sure that its second event arrived.
            again.draw_v2(2, 2, 4)
            again.hear_xs(3, 4)
            again.hear_until(lambda heard: {"ack": {"op": 2}} in heard)
        ann.hear_xs(1, 2, 3, 4)


def test_the_shared_board_is_for_those_who_name_none(plain: Target, canva: Any, canva_grpc: Any) -> None:
    with (
        collaborator(plain, canva, canva_grpc) as ann,
        collaborator(plain, canva, canva_grpc) as bob,
    ):
        # Other tests may have drawn on it.
        history = ann.hear_history()
        assert bob.hear_history()[: len(history)] == history
        bob.draw(1, 2)
        for somebody in (ann, bob):
            somebody.hear_xs(*history, 1, 2)


def test_who_half_closes_gets_its_last_event_and_ok(target: Target, canva: Any, canva_grpc: Any) -> None:
    code = new_board(target)
    with collaborator(target, canva, canva_grpc, code) as ann:
        ann.draw(*range(500))
        ann.said.hang_up()
        assert ann.farewell() == (grpc.StatusCode.OK, "")
        assert ann.xs() == list(range(500))


@pytest.mark.parametrize(
    ("code", "status", "says"),
    [
        ("AAAAAA", grpc.StatusCode.NOT_FOUND, "no board with this code"),
        ("nonsense", grpc.StatusCode.INVALID_ARGUMENT, "six characters"),
    ],
)
def test_a_wrong_board_over_grpc(
    plain: Target, canva: Any, canva_grpc: Any, code: str, status: grpc.StatusCode, says: str
) -> None:
    with collaborator(plain, canva, canva_grpc, code) as ann:
        ended, text = ann.farewell()
        assert ended is status
        assert says in text


@pytest.mark.parametrize(
    ("event", "says"),
    [({"type": ""}, "type"), ({"type": "draw", "color": "c" * 65}, "color")],
)
def test_an_invalid_event_over_grpc(
    plain: Target, canva: Any, canva_grpc: Any, event: dict[str, str], says: str
) -> None:
    code = new_board(plain)
    with person(plain, code) as ann, collaborator(plain, canva, canva_grpc, code) as bob:
        bob.draw(1)
        bob.say(**event)
        ended, text = bob.farewell()
        assert ended is grpc.StatusCode.INVALID_ARGUMENT
        assert says in text
        ann.draw(2)
        ann.hear_xs(1, 2)


HALF_DUPLEX = [style for style in STYLES if style.protocol.name != "GRPC"]


@pytest.mark.parametrize("style", HALF_DUPLEX, ids=str)
def test_who_says_one_thing_hears_on(target: Target, generated: Path, style: Style) -> None:
    """As pages do with Connect-Web and gRPC-Web: one request, and answers until one leaves."""
    pb = importlib.import_module("canva.v1.canva_pb")
    stubs = importlib.import_module("canva.v1.canva_connect")
    code = new_board(target)
    first = pb.ClientDrawRequest(message=Oneof("draw_event", pb.DrawEvent(type="draw", curr_x=1)))

    async def main() -> None:
        async with (
            http_client(target, style.version) as http,
            stubs.CanvaServiceClient(target.url, http_client=http, **style.settings()) as client,
        ):
            answers = aiter(client.collaborate(each([first]), headers={"fawa-board": code}))
            assert (await anext(answers)).message.field == "initial_history"
            assert (await anext(answers)).message.value.curr_x == 1
            with person(target, code) as ann:
                ann.hear_xs(1)
                for x in (2, 3):
                    ann.draw(x)
                    assert (await anext(answers)).message.value.curr_x == x
            await answers.aclose()

    asyncio.run(main())


def test_curl_says_one_thing_and_hears_on(target: Target) -> None:
    """Connect's streams as JSON over HTTP/1.1: one message, and answers until one leaves."""
    code = new_board(target)
    message = json.dumps({"drawEvent": {"type": "draw", "currX": 1}}).encode()
    command = [
        *("curl", "--silent", "--no-buffer", "--http1.1", "--data-binary", "@-"),
        *("--header", "content-type: application/connect+json", "--header", f"fawa-board: {code}"),
        *(["--cacert", str(target.certificate)] if target.certificate else []),
        target.url + expect.COLLABORATE,
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as curl:
        assert curl.stdin is not None
        assert curl.stdout is not None
        curl.stdin.write(b"\0" + len(message).to_bytes(4, "big") + message)
        curl.stdin.close()

        def hear() -> dict[str, Any]:
            assert curl.stdout is not None
            head = curl.stdout.read(5)
            assert head[0] == 0
            answer: dict[str, Any] = json.loads(curl.stdout.read(int.from_bytes(head[1:], "big")))
            return answer

        try:
            assert list(hear()) == ["initialHistory"]
            assert hear()["drawEvent"]["currX"] == 1
            with person(target, code) as ann:
                ann.hear_xs(1)
                ann.draw(2)
                assert hear()["drawEvent"]["currX"] == 2
        finally:
            curl.kill()


def test_it_is_healthy(target: Target) -> None:
    answer = ask(target, "/health")
    assert (answer.status, json.loads(answer.body)["status"]) == (200, "ok")
