"""Where content and records are kept: protocol classes in `base`, one module a backend."""
