"""Tests of the services, against streams and exchanges in memory and real stores."""
