"""Calls: from an exchange to a handler and back."""
