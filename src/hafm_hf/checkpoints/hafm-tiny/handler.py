"""What Inference Endpoints call."""

from hafm_hf.endpoint import EndpointHandler  # noqa: F401
