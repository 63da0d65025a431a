"""For Inference Endpoints."""

from hafm_hf.endpoint import EndpointHandler  # noqa: F401
