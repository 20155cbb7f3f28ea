"""Tests of storage; `contract` holds those that every backend must pass."""
