"""The HTTP API: routes, handlers, request and response models, serializers, JSON schemas, OpenAPI."""
