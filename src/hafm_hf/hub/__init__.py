# SPDX-License-Identifier: Apache-2.0
"""What the Hugging Face Hub runs: the handler of Inference Endpoints."""
