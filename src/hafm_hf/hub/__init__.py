# SPDX-License-Identifier: Apache-2.0
"""Code that the Hugging Face Hub runs: the handler for Inference Endpoints."""
