// Numbers, codes and errors in words.

import assert from "node:assert/strict";
import { test } from "node:test";

import { codeIn, countdown, failureInWords, isOnlyHere, sizeInWords } from "../../fawa/web/words.js";

test("sizes", () => {
  const said = [0, 1, 999, 1000, 1500, 123_456, 30_000_000, 5e9, 2e15].map(sizeInWords);
  assert.deepEqual(said, [
    "0 bytes", "1 byte", "999 bytes", "1.0 kB", "1.5 kB", "123 kB", "30.0 MB", "5.0 GB", "2000 TB",
  ]);
});

test("countdowns never say less than is left", () => {
  assert.deepEqual([-5, 0, 1, 1000, 61_001, 3_600_000].map(countdown), ["0:00", "0:00", "0:01", "0:01", "1:02", "1:00:00"]);
});

test("a code is found in what people type and paste", () => {
  for (const typed of ["K7Q2ZD", "k7q2zd", " k7q 2zd ", "k7q-2zd", "http://a.example/#/board/k7q2zd", "#/board/K7Q2ZD"]) {
    assert.equal(codeIn(typed), "K7Q2ZD", typed);
  }
  for (const typed of ["", "K7Q2Z", "K7Q2ZDX", "K7Q2Zä", "http://a.example/#/board/k7q2zdxx", "http://a.example/"]) {
    assert.equal(codeIn(typed), null, typed);
  }
});

test("addresses that only this computer knows", () => {
  for (const host of ["localhost", "127.0.0.1", "127.1.2.3", "[::1]", "fawa.localhost"]) assert.ok(isOnlyHere(host), host);
  for (const host of ["192.168.1.5", "fawa.example", "localhost.example", "[fe80::1]"]) assert.ok(!isOnlyHere(host), host);
});

test("failures say what to do", () => {
  assert.match(failureInWords({ code: "not_found", message: "x" }), /typing errors/);
  assert.match(failureInWords({ code: "unavailable", message: "no route" }), /try again.*no route/);
  assert.match(failureInWords({ code: "anything", message: "why" }), /why/);
});
