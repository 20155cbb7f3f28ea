"""Tests of `fawa.board`."""
