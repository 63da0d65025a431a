"""For Inference Endpoints."""

from hafm_hf.hub.endpoint import EndpointHandler  # noqa: F401
