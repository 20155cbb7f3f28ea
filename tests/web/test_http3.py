"""HTTP/3 from a real Chromium: fetch and a streamed upload."""

from __future__ import annotations

from pathlib import Path

from tests.browser import browsing, trusting
from tests.daemon import Daemon

CALLS = """async (path) => {
  const answer = await fetch(path, {
    method: "POST", headers: {"content-type": "application/json"}, body: JSON.stringify({name: "Ada"}),
  });
  const document = await answer.json();
  const upload = await fetch("/greet.v1.GreetService/SayHello", {
    method: "POST", headers: {"content-type": "application/json"}, duplex: "half",
    body: new ReadableStream({
      start(controller) {
        controller.enqueue(new TextEncoder().encode('{"name": "'));
        controller.enqueue(new TextEncoder().encode('Grace"}'));
        controller.close();
      },
    }),
  });
  const streamed = await upload.json();
  const versions = performance.getEntriesByType("resource").map((entry) => entry.nextHopProtocol);
  return [document.resp, streamed.resp, versions];
}"""


def test_fetch_and_a_streamed_upload(daemon: Daemon, tmp_path: Path) -> None:
    flags = (f"--origin-to-force-quic-on={daemon.tls}", trusting(daemon.certificate))
    with browsing(tmp_path / "profile", *flags) as browser:
        page = browser.page()
        page.goto(f"https://{daemon.tls}/")
        first, streamed, versions = page.evaluate(CALLS, "/greet.v1.GreetService/SayHello")
        assert first == "Hello, Ada!"
        assert streamed == "Hello, Grace!"
        assert set(versions) == {"h3"}
