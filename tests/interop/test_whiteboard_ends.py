"""Boards whose daemon ends: by SIGTERM, by `kill -9`; and boards that expire."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]

from tests.daemon import Daemon, running
from tests.interop.target import Target
from tests.interop.whiteboard import ask, collaborator, new_board, person, resume_of

#: Copies are made often, so that a test need not wait.
OFTEN = ("--board-autosave", "100ms")


def test_sigterm_sends_everybody_away_and_loses_nothing(tmp_path: Path, canva: Any, canva_grpc: Any) -> None:
    with running(tmp_path, "--board-autosave", "1h") as daemon:
        plain, tls = Target(daemon.plain, None), Target(daemon.tls, daemon.certificate)
        code = new_board(plain)
        with (
            person(plain, code) as ann,
            person(tls, code, v2=True) as bea,
            person(tls, code, v2=True) as dan,
            collaborator(plain, canva, canva_grpc, code) as cem,
        ):
            cem.hear_history()
            bea.draw_v2(1, 1, 2)
            for somebody in (ann, bea, dan, cem):
                somebody.hear_xs(1, 2)
            daemon.signal(signal.SIGTERM)
            assert ann.farewell() == (1012, "the server restarts")
            delays = []
            for somebody in (bea, dan):
                assert somebody.farewell() == (1012, "the server restarts")
                assert list(somebody.heard[-1]) == ["drain"]
                delays.append(somebody.heard[-1]["drain"]["retry_after_ms"])
            assert delays[0] != delays[1]
            assert cem.farewell()[0] is grpc.StatusCode.UNAVAILABLE
            assert daemon.wait() == 0
    with running(tmp_path) as daemon:
        target = Target(daemon.plain, None)
        resume = resume_of(bea.hello, 2)
        with person(target, code) as ann, person(target, code, v2=True, resume=resume) as bea:
            ann.hear_xs(1, 2)
            # It is who it was; but the numbers of events begin a new epoch.
            assert bea.hello["client_id"] == resume["client_id"]
            assert bea.hello["epoch"] != resume["epoch"]
            assert (bea.hello["recovered"], bea.hello["op"], bea.hello["seq"]) == (False, 2, 2)
            bea.draw_v2(2, 2, 3)
            ann.hear_xs(1, 2, 3)


def test_a_board_survives_kills(tmp_path: Path, seed: int) -> None:
    """Of what was drawn, a killed daemon loses the last moment at most; what is sent again comes once."""
    chance = random.Random(seed)
    code = ""
    hello: dict[str, Any] = {}
    drawn = 0
    for _ in range(4):
        with running(tmp_path, *OFTEN) as daemon:
            target = Target(daemon.plain, None)
            code = code or new_board(target)
            resume = {"resume": resume_of(hello, drawn)} if hello else {}
            with person(target, code, v2=True, **resume) as ann:
                taken = ann.hello["op"]
                assert taken <= drawn
                assert not hello or ann.hello["client_id"] == hello["client_id"]
                hello = ann.hello
                ann.hear_xs(*range(1, taken + 1))
                # What the server has lost is sent again, then something new.
                more = chance.randrange(1, 200)
                for op in range(taken + 1, drawn + more + 1):
                    ann.draw_v2(op, op)
                drawn += more
                ann.hear_xs(*range(1, drawn + 1))
                # At any point between two copies.
                time.sleep(chance.uniform(0, 0.15))
                daemon.kill()
    with running(tmp_path) as daemon:
        target = Target(daemon.plain, None)
        with person(target, code, v2=True, resume=resume_of(hello, drawn)) as ann:
            for op in range(ann.hello["op"] + 1, drawn + 1):
                ann.draw_v2(op, op)
            ann.hear_xs(*range(1, drawn + 1))


def test_a_code_is_good_though_the_daemon_is_killed_right_after(tmp_path: Path) -> None:
    with running(tmp_path) as daemon:
        code = new_board(Target(daemon.plain, None))
        daemon.kill()
    with running(tmp_path) as daemon:
        assert ask(Target(daemon.plain, None), f"/join?code={code}").status == 200


def left_memory(daemon: Daemon) -> None:
    daemon.wait_for_event(lambda entry: entry["event"] == "a board has left memory")


def test_a_board_that_expired_comes_back(tmp_path: Path) -> None:
    with running(tmp_path, "--board-idle", "1s", "--log-level", "debug") as daemon:
        target = Target(daemon.plain, None)
        code = new_board(target)
        with person(target, code, v2=True) as ann:
            ann.draw_v2(1, 1, 2)
            ann.hear_xs(1, 2)
        left_memory(daemon)
        with person(target, code, v2=True, resume=resume_of(ann.hello, 2)) as again:
            again.hear_xs(1, 2)
            assert again.hello["client_id"] == ann.hello["client_id"]
            assert again.hello["epoch"] != ann.hello["epoch"]


def test_without_grace_a_board_that_expired_is_gone(tmp_path: Path) -> None:
    flags = ("--board-idle", "1s", "--board-grace", "0", "--log-level", "debug")
    with running(tmp_path, *flags) as daemon:
        target = Target(daemon.plain, None)
        code = new_board(target)
        with person(target, code) as ann:
            ann.draw(1)
            ann.hear_xs(1)
        left_memory(daemon)
        assert ask(target, f"/join?code={code}").status == 404
