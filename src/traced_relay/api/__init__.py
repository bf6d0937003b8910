"""The HTTP API: routes, middleware, authentication, errors as problem documents, and its description."""
